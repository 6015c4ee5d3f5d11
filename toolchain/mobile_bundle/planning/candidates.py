"""The codecs that a plan may choose from: their bytes and predicted loss."""

from __future__ import annotations

from dataclasses import dataclass

from mobile_bundle.codecs import StreamCodec, codec_by_name
from mobile_bundle.codecs.registry import GAUSSIAN_ERROR
from mobile_bundle.models import TensorSpec

_SHARING_BITS = 0.01
"""A codebook of its own may cost so many bits per weight; a dearer one is shared over the layers."""


@dataclass(frozen=True)
class Candidate:
    """A codec for one tensor. bytes: of its blob, plus its share of a shared codebook; loss: nats per token."""

    codec: StreamCodec
    bytes: float
    loss: float


def candidates(
    tensor: TensorSpec, sensitivity: float, sharers: int, exact: StreamCodec | None = None
) -> list[Candidate]:
    """Codecs on the lower convex hull of (bytes, loss), cheapest first.

    sensitivity: nats per token at a relative error of 1; sharers: tensors of this kind, over all layers; exact: a codec
    that holds this tensor without loss."""
    found = [] if exact is None else [Candidate(exact, float(exact.blob_bytes(tensor.rows, tensor.columns)), 0.0)]
    for name, error in GAUSSIAN_ERROR.items():
        codec = _shared(codec_by_name(name), tensor, sharers)
        size = float(codec.blob_bytes(tensor.rows, tensor.columns))
        if shared := codec.shared_codebook:
            size += shared.header.blob_bytes / sharers
        found.append(Candidate(codec, size, error * sensitivity))
    return _hull(found)


def _shared(codec: StreamCodec, tensor: TensorSpec, sharers: int) -> StreamCodec:
    if codec.codebook is None or sharers < 2:
        return codec
    own = 8 * codec.codebook.header.payload_bytes / (tensor.rows * tensor.columns)
    return codec if own <= _SHARING_BITS else codec.with_codebook(shared=True)


def _hull(found: list[Candidate]) -> list[Candidate]:
    """Drops candidates that are larger and no better, and those above a line between two others."""
    hull: list[Candidate] = []
    for each in sorted(found, key=lambda each: (each.bytes, each.loss)):
        if hull and each.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and _slope(hull[-2], each) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(each)
    return hull


def _slope(a: Candidate, b: Candidate) -> float:
    """Loss per byte, negative: the steeper, the more a byte saves."""
    return (b.loss - a.loss) / (b.bytes - a.bytes)
