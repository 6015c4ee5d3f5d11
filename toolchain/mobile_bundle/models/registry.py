"""Architectures by name. Opens a checkpoint as a model: its decoder, its tensors, and where their values come from."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import InputError, UnsupportedError
from mobile_bundle.models import (
    bitnet,
    bitnet_b158,
    ernie,
    exaone4,
    gemma2,
    gemma3,
    granite,
    granite4,
    hunyuan,
    lfm2,
    llama,
    minicpm,
    mistral,
    names,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    smollm3,
)
from mobile_bundle.models.checkpoint import Checkpoint
from mobile_bundle.models.config import Config, config_tokens
from mobile_bundle.models.gguf import GgufCheckpoint, is_gguf
from mobile_bundle.models.head import output_head
from mobile_bundle.models.quantised import refuse_quantised
from mobile_bundle.models.reading import Reading, Source
from mobile_bundle.models.repository import model_name
from mobile_bundle.models.spec import DecoderSpec, TensorSpec
from mobile_bundle.models.ternary import MasterTernary, TernaryScheme, ternary_bias, ternary_scheme, ternary_source

_FAMILIES = (
    llama,
    mistral,
    qwen2,
    qwen3,
    bitnet,
    bitnet_b158,
    granite,
    granite4,
    minicpm,
    smollm3,
    ernie,
    gemma3,
    olmo2,
    exaone4,
    hunyuan,
    phi3,
    gemma2,
    lfm2,
)
ARCHITECTURES: dict[str, Callable[[Config], DecoderSpec]] = {family.ARCHITECTURE: family.read for family in _FAMILIES}
_MODEL_TYPES: dict[str, str] = {family.MODEL_TYPE: family.ARCHITECTURE for family in _FAMILIES if family.MODEL_TYPE}
_BY_NAME = frozenset(family.ARCHITECTURE for family in _FAMILIES if not family.MODEL_TYPE)
"""Architectures that transformers does not have: `architectures` alone tells of them."""
_SUB_NORMS = ("attn_sub_norm.weight", "ffn_sub_norm.weight")
_ZERO_VALUES = 1 << 16
"""Values that are looked at together for one that is not zero."""
_LAYER = re.compile(r"(?:model\.)?layers\.(\d{1,9})\.")


def architecture(config: dict[str, Any]) -> str:
    """The architecture of a config.json, as AutoModelForCausalLM finds it: by `model_type`, whatever model of that
    family `architectures` names; but for one that transformers does not have. UserError for one that is not
    supported."""
    listed, model_type = config.get("architectures"), str(config.get("model_type") or "")
    first = str(listed[0]) if isinstance(listed, list) and listed else ""
    if first in _BY_NAME:
        return first
    name = _MODEL_TYPES.get(model_type)
    if name is None and not model_type and first in ARCHITECTURES:
        return first
    base = [known.replace("ForCausalLM", "Model") for known in ARCHITECTURES]
    if name is not None and (not first or first in ARCHITECTURES or first in base):
        return name
    what = model_type if name is None and (first in ARCHITECTURES or not first) else first
    reason = ""
    if isinstance(config.get("text_config"), dict):
        reason = " (a model of text and images or sound: its text part alone can be built, saved as a model of its own)"
    elif "Classification" in first:
        reason = " (it classifies and writes no text)"
    raise UnsupportedError(
        f"unsupported architecture {what[:80] or 'none named in config.json'}{reason}; supported: "
        f"{', '.join(ARCHITECTURES)}"
    )


@dataclass(frozen=True)
class Model:
    """An open checkpoint. notes: what a person should know, one line each."""

    checkpoint: Checkpoint | GgufCheckpoint
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
            window = self.spec.window_frequencies
            return _Table(
                window if tensor.name == names.WINDOW_ROPE and window is not None else self.spec.inverse_frequencies
            )
        rows = tensor.source_rows or tensor.rows
        shape: tuple[int, ...] = (rows, tensor.columns) if tensor.role != "vector" else (tensor.columns,)
        if tensor.taps:
            shape = (tensor.columns // tensor.taps, 1, tensor.taps)
        if isinstance(self.checkpoint, GgufCheckpoint):
            return self._of_gguf(self.checkpoint, tensor, shape)
        if self.scheme is not None and tensor.role == "body":
            return ternary_source(self.checkpoint, self.scheme, tensor.source, (tensor.rows, tensor.columns))
        if self.scheme is not None and tensor.source.endswith(".bias"):
            return ternary_bias(self.checkpoint, self.scheme, tensor.source, tensor.columns)
        return Reading(self.checkpoint.tensor(tensor.source, shape), tensor)

    def _of_gguf(self, checkpoint: GgufCheckpoint, tensor: TensorSpec, shape: tuple[int, ...]) -> Source:
        """Its matrices are those of the file, whose codes may be carried over; vectors are read as a checkpoint's."""
        if tensor.taps:
            return Reading(checkpoint.tensor(tensor.source, (shape[0], shape[2])), tensor)
        if tensor.role == "vector":
            return Reading(checkpoint.tensor(tensor.source, shape), tensor)
        return checkpoint.tensor(tensor.source, shape, tensor.first_row, tensor.rows)

    def is_zero(self, tensor: TensorSpec) -> bool:
        """Whether a matrix, or a norm's weights, are all zero; biases and the rotary table do not count. Stops at the
        first other value."""
        if not tensor.source or tensor.source.endswith(".bias"):
            return False
        source = self.source(tensor)
        source = source.tensor if isinstance(source, MasterTernary) else source  # which reads all of it for its mean
        return not any(chunk.any() for chunk in source.chunks(max(1, _ZERO_VALUES // tensor.columns)))

    def stored_names(self, tensor: TensorSpec) -> list[str]:
        """Names of the checkpoint's tensors that the tensor's values come from; none for one that is computed."""
        scale = f"{tensor.source.rpartition('.')[0]}.weight_scale"
        return [name for name in (tensor.source, scale) if name in self.checkpoint]

    def directory_tensors(self) -> list[TensorSpec]:
        """The tensors as a checkpoint directory of this model holds them, whatever file this is."""
        if not isinstance(self.checkpoint, GgufCheckpoint):
            return self.tensors
        config = self.checkpoint.config
        return names.tensors(ARCHITECTURES[architecture(config)](Config(config)), "model.")

    def close(self) -> None:
        self.checkpoint.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_model(path: str | os.PathLike[str]) -> Model:
    """Opens a checkpoint directory, or a GGUF file, and checks that every tensor is there in the right shape. UserError
    if not."""
    if is_gguf(path):
        return _open_gguf(path)
    checkpoint = Checkpoint(path)
    try:
        return _open(checkpoint)
    except BaseException:
        checkpoint.close()
        raise


def _open(checkpoint: Checkpoint) -> Model:
    config = checkpoint.config
    name = architecture(config)
    if config.get("per_layer_config"):
        raise UnsupportedError("config.json has a per_layer_config: layers that differ in shape are not supported")
    refuse_quantised(checkpoint)
    spec = ARCHITECTURES[name](Config(config))
    _check_layers(checkpoint, spec.layers)
    spec = _without_sub_norms(checkpoint, spec)
    scheme = ternary_scheme(config, spec.ternary)
    generation = {
        key: value for key, value in (checkpoint.json("generation_config.json") or {}).items() if value is not None
    }
    bos, eos = config_tokens({**config, **generation})
    spec = replace(spec, name=model_name(checkpoint.directory), ternary=scheme is not None, bos=bos, eos=eos)
    head = output_head(checkpoint, _source(checkpoint, "model.embed_tokens.weight"), spec.tied)
    spec = replace(spec, tied=head.tied)
    tensors = [replace(each, source=_source(checkpoint, each.source)) for each in names.tensors(spec, "model.")]
    if head.embedding:
        tensors = [replace(each, source=head.embedding) if each.role == "embedding" else each for each in tensors]
    model = Model(checkpoint, spec, tensors, scheme, [*checkpoint.notes, *head.notes, *spec.notes])
    for tensor in tensors:
        model.source(tensor)
    _note_choices(model)
    return model


def _without_sub_norms(checkpoint: Checkpoint, spec: DecoderSpec) -> DecoderSpec:
    """A BitNet of transformers' class that was trained without norms before the output and down projections has none
    in any layer."""
    own_names = spec.sub_norms and not spec.sources
    if not own_names or any(name.endswith(_SUB_NORMS) for name in checkpoint.names()):
        return spec
    note = (
        "the checkpoint has no norms before the output and down projections (attn_sub_norm, ffn_sub_norm), so the "
        "model has none; transformers' class would put untrained ones there"
    )
    return replace(spec, sub_norms=False, notes=(*spec.notes, note))


def _open_gguf(path: str | os.PathLike[str]) -> Model:
    checkpoint = GgufCheckpoint(path)
    try:
        config = checkpoint.config
        spec = ARCHITECTURES[architecture(config)](Config(config))
        bos, eos = config_tokens({**config, **(checkpoint.json("generation_config.json") or {})})
        # llama.cpp's converter has added what is added to norms; rows in pairs are put apart as those it interleaved
        spec = replace(spec, name=checkpoint.name, bos=bos, eos=eos, norm_plus=0.0, pairs=False)
        tensors = [
            replace(tensor, stored=checkpoint.type(tensor.source), keep=checkpoint.keep(tensor.source))
            if tensor.role != "vector"
            else tensor
            for tensor in names.tensors(spec, "model.")
        ]
        model = Model(checkpoint, spec, tensors, None, list(spec.notes))
        for tensor in tensors:
            model.source(tensor)
        unused = set(checkpoint.names()) - {tensor.source for tensor in tensors}
        if unused:
            raise UnsupportedError(f"{path}: a {spec.architecture} with the tensor {min(unused)} is not supported")
        return model
    except BaseException:
        checkpoint.close()
        raise


def _source(checkpoint: Checkpoint, name: str) -> str:
    """The tensor's name in the checkpoint: one that was saved without the head leaves "model." out."""
    bare = name.removeprefix("model.")
    return bare if name not in checkpoint and bare in checkpoint else name


def _check_layers(checkpoint: Checkpoint, asked: int) -> None:
    """Before a list of tensors is made of the number: UserError if the checkpoint holds fewer layers."""
    found = [int(match[1]) for name in checkpoint.names() if (match := _LAYER.match(name))]
    if not found:
        raise InputError(
            f"{checkpoint.directory} has no tensor model.layers.0...: its tensors are {_some(checkpoint.names())}; "
            f"save the model with transformers' save_pretrained"
        )
    held = max(found) + 1
    if asked > held:
        raise InputError(
            f"config.json asks for {asked} layers (num_hidden_layers), the weights hold {held}: there is no tensor "
            f"model.layers.{held}...; is the checkpoint complete?"
        )


def _some(found: Iterable[str]) -> str:
    """A few names for a message."""
    listed = sorted(found)
    return ", ".join(name[:80] for name in listed[:3]) + (" ..." if len(listed) > 3 else "") if listed else "nothing"


def _note_choices(model: Model) -> None:
    """What transformers would do otherwise, or not use either: worth a line, not an error."""
    config, checkpoint = model.checkpoint.config, model.checkpoint
    listed = config.get("architectures")
    if isinstance(listed, list) and listed and listed[0] in ARCHITECTURES and listed[0] != model.spec.architecture:
        model.notes.append(
            f"config.json names {listed[0]} and the model_type of {model.spec.architecture}, which is used, as by "
            f"transformers"
        )
    of_transformers = model.spec.architecture not in _BY_NAME
    if model.scheme is not None and of_transformers and config.get("quantization_config") is None:
        model.notes.append(
            "the weights are rounded to ternary as BitNet's are in training; transformers does so only with a "
            "quantization_config in config.json"
        )
    used = {tensor.source for tensor in model.tensors}
    if model.spec.tied:
        used.add("lm_head.weight")
    unused = sorted(
        name for name in set(checkpoint.names()) - used if not name.endswith((".rotary_emb.inv_freq", ".weight_scale"))
    )
    if unused:
        model.notes.append(
            f"{len(unused)} tensors of the checkpoint are not part of {model.spec.architecture} and not used: "
            f"{_some(unused)}"
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
