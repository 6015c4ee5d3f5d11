"""A checkpoint's tensors, one after the other, into weights.ptd."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobile_bundle.build.recipe import Recipe, resolve_recipe, tensor_codec
from mobile_bundle.codecs import BlobHeader, StreamCodec
from mobile_bundle.container import PlannedTensor, WeightsWriter
from mobile_bundle.errors import UserError
from mobile_bundle.models import DecoderSpec, Model, TensorSpec, open_model

Progress = Callable[[int, int, str], None]
"""Called with (weights done, weights in all, name of the tensor that was just finished), from one thread at a time."""

WORKERS = 2


@dataclass(frozen=True)
class TensorRecord:
    """What manifest.json says of one tensor. bytes: header included; relative_error: ||W - W'||^2 / ||W||^2."""

    name: str
    codec: str
    format: str
    rows: int
    columns: int
    bytes: int
    bits_per_weight: float
    relative_error: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def build_weights(
    model_dir: str | os.PathLike[str],
    recipe: Recipe | str | None,
    out_path: str | os.PathLike[str],
    progress: Progress | None = None,
    workers: int = WORKERS,
) -> list[TensorRecord]:
    """Builds weights.ptd at `out_path` from a checkpoint directory. recipe: a name, or None for the default.

    UserError names what is wrong with the checkpoint, the recipe or the disk; then there is no file at `out_path`.
    """
    with open_model(model_dir) as model:
        return write_weights(model, model.spec, resolve_recipe(recipe, model.spec), Path(out_path), progress, workers)


def segment_of(tensor: TensorSpec) -> str:
    """The segment of weights.ptd that holds the tensor."""
    if tensor.role == "vector":
        return "vectors"
    return tensor.role if tensor.layer < 0 else f"layers.{tensor.layer}"


def plan_weights(model: Model, spec: DecoderSpec, recipe: Recipe) -> list[PlannedTensor]:
    """Format and size of every tensor, in the order of the file; nothing is read."""
    planned = []
    for tensor in model.tensors:
        codec = tensor_codec(recipe, spec, tensor)
        header = BlobHeader(codec.format, tensor.rows, tensor.columns, codec.group, codec.flags)
        planned.append(PlannedTensor(segment_of(tensor), tensor.name, header))
    return planned


def write_weights(
    model: Model, spec: DecoderSpec, recipe: Recipe, path: Path, progress: Progress | None, workers: int = WORKERS
) -> list[TensorRecord]:
    """As build_weights, for an open model. spec: the model's, with the tokenizer's BOS and end tokens.

    Tensors are coded by `workers` threads (NumPy lets go of the interpreter lock); the bytes do not depend on how many.
    """
    codecs = {tensor.name: tensor_codec(recipe, spec, tensor) for tensor in model.tensors}
    planned = plan_weights(model, spec, recipe)
    total = sum(tensor.rows * tensor.columns for tensor in model.tensors)
    done = 0
    records: dict[str, TensorRecord] = {}
    with WeightsWriter(path, spec.to_config_bytes(), planned) as writer, ThreadPoolExecutor(workers) as pool:
        # the largest first, so that no thread is left alone with one at the end
        order = sorted(model.tensors, key=lambda tensor: -tensor.rows * tensor.columns)
        waiting = {pool.submit(_code, model, writer, tensor, codecs[tensor.name]): tensor for tensor in order}
        try:
            while waiting:
                finished, _ = wait(waiting, return_when="FIRST_COMPLETED")
                for future in finished:
                    tensor = waiting.pop(future)
                    records[tensor.name] = future.result()
                    done += tensor.rows * tensor.columns
                    if progress:
                        progress(done, total, tensor.name)
        except BaseException:
            for future in waiting:
                future.cancel()
            wait(waiting, return_when=FIRST_EXCEPTION)
            raise
        writer.finish()
    return [records[tensor.name] for tensor in model.tensors]


def _code(model: Model, writer: WeightsWriter, tensor: TensorSpec, codec: StreamCodec) -> TensorRecord:
    blob = writer.blob(tensor.name)
    try:
        encoded = codec.encode_stream(model.source(tensor), blob.write)
    except ValueError as error:
        raise UserError(f"cannot code tensor {tensor.source}: {error}") from error
    blob.close()
    header = encoded.header
    return TensorRecord(
        tensor.name,
        codec.name,
        header.format.name.lower(),
        header.rows,
        header.columns,
        header.blob_bytes,
        codec.bits_per_weight(header.rows, header.columns),
        encoded.relative_error,
    )
