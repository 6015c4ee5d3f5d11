"""The codecs a plan may choose from, and what each loses."""

from __future__ import annotations

from dataclasses import dataclass

from mobile_bundle.codecs import StreamCodec, codec_by_name
from mobile_bundle.codecs.blob import HEADER_BYTES, VectorLayout
from mobile_bundle.codecs.vptq import VptqCodec, full_name
from mobile_bundle.models import TensorSpec

GAUSSIAN_ERROR = {
    "affine-8bit": 2.9e-5,
    "affine-6bit": 0.00054,
    "affine-5bit": 0.0021,
    "affine-4bit": 0.0082,
    "affine-4bit-g128-sym": 0.0094,
    "affine-3bit": 0.0314,
    "vptq-v4-b12": 0.0240,
    "vptq-v4-b11": 0.0346,
    "vptq-v4-b10": 0.0500,
    "vptq-v4-b9": 0.0712,
    "vptq-v4-b8": 0.0995,
}
"""||W - W'||^2 / ||W||^2 of Gaussian weights, without data (test_plan.py measures them). With calibration the
loss of a matrix is this share of its sensitivity (calibrate/profile.py)."""
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
        if isinstance(codec, VptqCodec) and codec.layout.shared:
            size += codebook_bytes(codec.layout) / sharers
        found.append(Candidate(codec, size, error * sensitivity))
    return _hull(found)


def codebook_bytes(layout: VectorLayout) -> int:
    """Bytes of a shared codebook's blob."""
    return HEADER_BYTES + layout.entries * layout.stride


def _shared(codec: StreamCodec, tensor: TensorSpec, sharers: int) -> StreamCodec:
    if not isinstance(codec, VptqCodec) or sharers < 2:
        return codec
    layout = codec.layout
    own = 8 * layout.entries * layout.stride / (tensor.rows * tensor.columns)
    if own <= _SHARING_BITS:
        return codec
    return codec_by_name(full_name(VectorLayout(layout.length, layout.index_bits, layout.residual_bits, 0, True)))


def _hull(found: list[Candidate]) -> list[Candidate]:
    """What is left when everything dearer and not better, or above a line between two others, is gone."""
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
