"""The error of every tensor of a bundle against the checkpoint, found by decoding it in chunks of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs import BlobError, codec_for
from mobile_bundle.codecs.codec import source_chunks, sum_squares
from mobile_bundle.codecs.source import Floats
from mobile_bundle.container.index import ContainerError
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.errors import InputError
from mobile_bundle.models import Model
from mobile_bundle.models.reading import Source
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
    try:
        codec = codec_for(weights.header(name))
        shared = codec_for(weights.packed_header(name)).shared_codebook
    except BlobError:
        return None
    if shared:
        codec = codec.reading(_shared_codebook(weights, name, shared_name(name, shared)))
    return codec.decode_chunks(weights.blob(name))


def _shared_codebook(weights: WeightsReader, name: str, shared: str) -> NDArray[np.int8]:
    """int8 (entries, stride): the tensor that packed_formats.h names for this matrix."""
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
