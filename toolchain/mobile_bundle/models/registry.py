"""Architectures by name, and a checkpoint opened as a model: its decoder, its tensors, where their values come from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import UserError
from mobile_bundle.models import bitnet, llama, mistral, names, qwen2, qwen3
from mobile_bundle.models.checkpoint import Checkpoint
from mobile_bundle.models.config import Config, config_tokens
from mobile_bundle.models.spec import DecoderSpec, TensorSpec
from mobile_bundle.models.ternary import TernaryScheme, ternary_bias, ternary_scheme, ternary_source

_FAMILIES = (llama, mistral, qwen2, qwen3, bitnet)
ARCHITECTURES: dict[str, Callable[[Config], DecoderSpec]] = {family.ARCHITECTURE: family.read for family in _FAMILIES}
_MODEL_TYPES = {family.MODEL_TYPE: family.ARCHITECTURE for family in _FAMILIES}


class Source(Protocol):
    """A matrix in chunks of rows (codecs.MatrixSource)."""

    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    def chunks(self, chunk_rows: int) -> Iterator[NDArray[np.float32]]: ...


def architecture(config: dict[str, Any]) -> str:
    """The architecture that config.json names. UserError for one that is not supported."""
    listed = config.get("architectures")
    name = str(listed[0]) if isinstance(listed, list) and listed else _MODEL_TYPES.get(str(config.get("model_type")))
    if name not in ARCHITECTURES:
        what = name or config.get("model_type") or "none named in config.json"
        raise UserError(f"unsupported architecture {what}; supported: {', '.join(ARCHITECTURES)}")
    return name


@dataclass(frozen=True)
class Model:
    """An open checkpoint. notes: what a person should know, one line each."""

    checkpoint: Checkpoint
    spec: DecoderSpec
    tensors: list[TensorSpec]
    scheme: TernaryScheme | None
    notes: list[str]

    @property
    def parameters(self) -> int:
        """Weights of the model; a tied head counts once, the rotary table not at all."""
        return sum(tensor.rows * tensor.columns for tensor in self.tensors if tensor.source)

    def source(self, tensor: TensorSpec) -> Source:
        """The tensor's values. UserError if it is missing or of another shape or dtype."""
        if not tensor.source:
            return _Table(self.spec.inverse_frequencies)
        shape = (tensor.rows, tensor.columns) if tensor.role != "vector" else (tensor.columns,)
        if self.scheme is not None and tensor.role == "body":
            return ternary_source(self.checkpoint, self.scheme, tensor.source, (tensor.rows, tensor.columns))
        if self.scheme is not None and tensor.source.endswith(".bias"):
            return ternary_bias(self.checkpoint, self.scheme, tensor.source, tensor.columns)
        return self.checkpoint.tensor(tensor.source, shape)

    def stored_names(self, tensor: TensorSpec) -> list[str]:
        """Names of the checkpoint's tensors that the tensor's values come from; none for one that is computed."""
        scale = f"{tensor.source.rpartition('.')[0]}.weight_scale"
        return [name for name in (tensor.source, scale) if name in self.checkpoint]

    def close(self) -> None:
        self.checkpoint.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_model(directory: str | os.PathLike[str]) -> Model:
    """Opens a checkpoint directory and checks that every tensor is there in the right shape. UserError if not."""
    checkpoint = Checkpoint(directory)
    try:
        return _open(checkpoint)
    except BaseException:
        checkpoint.close()
        raise


def _open(checkpoint: Checkpoint) -> Model:
    config = checkpoint.config
    name = architecture(config)
    spec = ARCHITECTURES[name](Config(config))
    scheme = ternary_scheme(config, spec.ternary)
    generation = {
        key: value for key, value in (checkpoint.json("generation_config.json") or {}).items() if value is not None
    }
    bos, eos = config_tokens({**config, **generation})
    spec = replace(spec, name=checkpoint.directory.resolve().name, ternary=scheme is not None, bos=bos, eos=eos)
    prefix = "" if "embed_tokens.weight" in checkpoint else "model."
    tensors = names.tensors(spec, prefix)
    model = Model(checkpoint, spec, tensors, scheme, [])
    for tensor in tensors:
        if tensor.role == "output" and tensor.source not in checkpoint:
            raise UserError(
                f"{checkpoint.directory} has no tensor lm_head.weight; if the embedding is its output head, set "
                f'"tie_word_embeddings": true in config.json'
            )
        model.source(tensor)
    _note_unused(model)
    return model


def _note_unused(model: Model) -> None:
    """Tensors that transformers would not use either: worth a line, not an error."""
    used = {tensor.source for tensor in model.tensors}
    if model.spec.tied:
        used.add("lm_head.weight")
    unused = sorted(
        name
        for name in set(model.checkpoint.names()) - used
        if not name.endswith((".rotary_emb.inv_freq", ".weight_scale"))
    )
    if unused:
        model.notes.append(
            f"{len(unused)} tensors of the checkpoint are not part of {model.spec.architecture}: {unused[0]} ..."
        )


class _Table:
    """A vector that is computed, not read."""

    rows = 1

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.columns = int(values.size)
        self._values = values.reshape(1, -1)

    def chunks(self, chunk_rows: int) -> Iterator[NDArray[np.float32]]:
        del chunk_rows
        yield self._values
