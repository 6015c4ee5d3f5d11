"""The error of every tensor of a bundle against the checkpoint, by decoding it: streamed, a chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from mobile_bundle.codecs import codec_for
from mobile_bundle.codecs.blob import BlobError, Format, VectorLayout
from mobile_bundle.codecs.codec import source_chunks, sum_squares
from mobile_bundle.codecs.source import Floats, chunk_rows
from mobile_bundle.codecs.vector_blob import Codes, decode_vector
from mobile_bundle.container.index import ContainerError
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.errors import InputError, UserError
from mobile_bundle.models import Model
from mobile_bundle.models.registry import Source
from mobile_bundle.planning.sharing import shared_name

Progress = Callable[[int, int, str], None]
"""(weights done, weights in all, name of the tensor)."""


@dataclass(frozen=True)
class TensorError:
    """Sums over a tensor, float64. squared_error: of (w - w')**2, None where no decoder for its format is at hand."""

    squared_weight: float
    squared_error: float | None

    @property
    def relative_error(self) -> float | None:
        """||W - W'||**2 / ||W||**2; 0 for a tensor of zeros."""
        if self.squared_error is None:
            return None
        return self.squared_error / self.squared_weight if self.squared_weight > 0 else 0.0


def tensor_errors(model: Model, weights: WeightsReader, progress: Progress) -> dict[str, TensorError]:
    """The error of every tensor of the checkpoint as weights.ptd holds it, by name.

    UserError if weights.ptd is not of this model; ContainerError if it is damaged."""
    for tensor in model.tensors:
        if tensor.name not in weights:
            raise InputError(f"{weights.path} has no tensor {tensor.name}: it is not a bundle of {model.spec.name}")
        header = weights.entry(tensor.name).header
        if (header.rows, header.columns) != (tensor.rows, tensor.columns):
            raise InputError(
                f"{weights.path}: {tensor.name} is {header.rows} x {header.columns}, in {model.spec.name} "
                f"{tensor.rows} x {tensor.columns}: it is not a bundle of that model"
            )
    total = sum(tensor.rows * tensor.columns for tensor in model.tensors)
    done = 0
    found = {}
    for tensor in model.tensors:
        found[tensor.name] = _tensor_error(model.source(tensor), decoded_chunks(weights, tensor.name))
        done += tensor.rows * tensor.columns
        progress(done, total, tensor.name)
    return found


def decoded_chunks(weights: WeightsReader, name: str) -> Iterator[Floats] | None:
    """The tensor's values in chunks of rows, float32 (n, columns), all of the same length but the last.

    None where this program has no decoder for the format in Python. ContainerError for a damaged blob."""
    header = weights.header(name)
    if header.format is Format.VECTOR:
        return _vector_chunks(weights, name, VectorLayout.from_flags(header.flags).shared)
    try:
        codec = codec_for(header)
    except (KeyError, ValueError, UserError):
        return None
    chunks = codec.decode_chunks(weights.blob(name))
    try:
        first = next(chunks)
    except BlobError:  # a coded form of something that cannot be decoded alone, such as a matrix without its codebook
        return None
    return chain([first], chunks)


def _vector_chunks(weights: WeightsReader, name: str, shared: bool) -> Iterator[Floats]:
    blob = weights.blob(name)
    header = blob.header
    codebook = _shared_codebook(weights, name) if shared else None
    step = chunk_rows(header.columns)
    for begin in range(0, header.rows, step):
        yield decode_vector(blob, codebook, begin, min(begin + step, header.rows))


def _shared_codebook(weights: WeightsReader, name: str) -> Codes:
    """int8 (entries, stride): the tensor that packed_formats.h names for a matrix of this layout."""
    shared = shared_name(name, VectorLayout.from_flags(weights.packed_header(name).flags))
    if shared not in weights:
        raise ContainerError(f"{weights.path} has no tensor {shared}, which {name} needs")
    blob = weights.blob(shared)
    return np.frombuffer(blob.payload, np.int8).reshape(blob.header.rows, blob.header.columns)


def _tensor_error(source: Source, decoded: Iterator[Floats] | None) -> TensorError:
    if decoded is None:
        return TensorError(sum(sum_squares(chunk) for chunk in source_chunks(source)), None)
    first = next(decoded)
    error = total = 0.0
    for ours, theirs in zip(chain([first], decoded), source.chunks(len(first)), strict=True):
        error += sum_squares(ours - theirs)
        total += sum_squares(theirs)
    return TensorError(total, error)
