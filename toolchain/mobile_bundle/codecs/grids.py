"""Which format holds a matrix exactly? Checkpoints that were trained or quantised at few bits lie on a grid already.

A matrix is on a format's grid if decoding gives its float32 values bit for bit (-0 counts as 0). Values that were
rounded to bfloat16 or fp16 after they had been multiplied out are on no grid, unless the products happen to be
representable.

The grids are those of published models: ternary or binary with one magnitude per tensor (BitNet, Falcon-E), per row
(TriLM) or per group of columns (Bonsai); ternary with one zero in every four columns (Sherry); d * code and
d * code + m in groups, of 2 to 8 bits (GGUF files and quantisation-aware training); rows of a scale times vectors of a
codebook (healing.py's VPTQ).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from mobile_bundle.codecs.affine import AffineCodec, power_of_two_scale
from mobile_bundle.codecs.bitnet import BitnetCodec
from mobile_bundle.codecs.codec import StreamCodec, largest_magnitude, source_chunks
from mobile_bundle.codecs.sign import SignCodec
from mobile_bundle.codecs.source import ArraySource, MatrixSource
from mobile_bundle.codecs.sparse_ternary import SparseTernaryCodec
from mobile_bundle.codecs.vector_exact import fit_vectors
from mobile_bundle.codecs.vector_layout import VectorLayout
from mobile_bundle.codecs.vptq import VptqCodec

_SAMPLE_ROWS = 16
_GROUPS = (32, 64, 128)


def find_grid(source: MatrixSource) -> StreamCodec | None:
    """The codec whose blob is the smallest of those that hold the matrix exactly; None if there is none.

    Of a matrix on no grid, the first rows that are not zero are read; of others all rows, a few times. ValueError for
    values that are not finite."""
    sample = _sample(source)
    if sample is None or not any(sample.held_by(codec) for codec in _widest()):
        return None
    whole = _Matrix(source)
    for codec in sorted(_codecs(), key=lambda codec: codec.blob_bytes(source.rows, source.columns)):
        if sample.held_by(codec) and whole.held_by(codec):
            return codec
    return None


def _widest() -> list[StreamCodec]:
    """What is on any grid is on one of these."""
    return [BitnetCodec(row_scales=True), AffineCodec(8, 32, False), AffineCodec(8, 32, True)]


def _codecs() -> list[StreamCodec]:
    by_row = (False, True)
    return [
        *(SparseTernaryCodec(rows) for rows in by_row),
        *(BitnetCodec(rows) for rows in by_row),
        *(SignCodec(group) for group in _GROUPS),
        VptqCodec(VectorLayout(4, 8), "vptq-2bit"),
        *(AffineCodec(b, group, asymmetric) for b in (2, 3, 4, 5, 6, 8) for group in _GROUPS for asymmetric in by_row),
    ]


def _sample(source: MatrixSource) -> _Matrix | None:
    """The first rows with a value that is not zero; None for a matrix of zeros."""
    for chunk in source.chunks(_SAMPLE_ROWS):
        rows = chunk[chunk.any(axis=1)]
        if len(rows):
            return _Matrix(ArraySource(rows))
    return None


class _Matrix:
    """Whether codecs hold a matrix; what they share is computed once."""

    def __init__(self, source: MatrixSource) -> None:
        self._source = source

    def held_by(self, codec: StreamCodec) -> bool:
        if isinstance(codec, BitnetCodec | SparseTernaryCodec):
            return self._is_ternary(codec.row_scales, isinstance(codec, SparseTernaryCodec))
        if isinstance(codec, VptqCodec):
            return fit_vectors(codec.layout, np.concatenate(list(source_chunks(self._source)))) is not None
        assert isinstance(codec, AffineCodec | SignCodec)
        return all(codec.holds(chunk * self._inverse) for chunk in source_chunks(self._source))

    @cached_property
    def _inverse(self) -> np.float32:
        """What brings the values into the range that fp16 scales are stored in."""
        return np.float32(1 / power_of_two_scale(largest_magnitude(self._source)))

    def _is_ternary(self, by_row: bool, sparse: bool) -> bool:
        """Whether all values are -a, 0 or a, one a for all or for each row; sparse: one zero in every four columns."""
        if sparse and self._source.columns % 4:
            return False
        magnitude = np.float32(0)
        for chunk in source_chunks(self._source):
            positive = np.abs(chunk)
            top = positive.max(axis=1)
            if not by_row:
                magnitude = magnitude or top.max()
                top = np.where(top > 0, magnitude, top)
            zero = positive == 0
            if not (zero | (positive == top[:, None])).all():
                return False
            if sparse and (zero.reshape(len(chunk), -1, 4).sum(axis=2) != 1).any():
                return False
        return True
