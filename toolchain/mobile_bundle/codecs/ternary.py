"""Ternary weights, w = s * t with t in {-1, 0, 1}: how a matrix is rounded to them, and what the codecs of them share.

Two ways in. A matrix that is ternary already (every value -a, 0 or a) is stored without loss, s = a. Any other is
rounded as BitNet b1.58 does (Ma et al. 2024, arXiv:2402.17764; transformers' WeightQuant): m = max(mean|W|, 1e-5),
t = clip(round_half_even(w * (1/m)), -1, 1), s = 1 / (1/m) in float32: what the model was trained with.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.blob import FLAG_ROW_SCALES, Blob, BlobHeader
from mobile_bundle.codecs.codec import Encoded, StreamCodec, Write, source_chunks, sum_squares
from mobile_bundle.codecs.source import Floats, MatrixSource
from mobile_bundle.codecs.stats import Stats


class TernaryCodec(StreamCodec):
    """row_scales: one scale per row (mean|w| of the row, or its exact value) instead of one per tensor.

    A subclass says how rows of t are packed; they are written one behind the other, and the rows' scales after them."""

    def __init__(self, row_scales: bool = False) -> None:
        self.row_scales = row_scales
        self.flags = FLAG_ROW_SCALES if row_scales else 0

    @abstractmethod
    def _pack(self, ternary: Floats) -> memoryview:
        """The bytes of whole strips of rows (the last may be ragged). ternary: -1, 0 or 1, float32 (n, columns)."""

    @abstractmethod
    def _unpack(self, blob: Blob, begin: int, end: int) -> Floats:
        """Rows begin..end-1: -1, 0 or 1, float32 (end - begin, columns). BlobError for a code that does not exist."""

    @abstractmethod
    def _scales_at(self, header: BlobHeader) -> tuple[int, int]:
        """Where the payload has the scales of rows: bytes from its start, and how many there are, padding rows too."""

    def scales(self, source: MatrixSource) -> tuple[Floats, Floats]:
        """s, float32 (1,) or by row (rows,), and what multiplies the weights before they are rounded to the nearest of
        -1, 0 and 1, of the same shape. ValueError if a value is not finite."""
        return ternary_scales(source, self.row_scales)

    def trained_ternary(self) -> TernaryCodec | None:
        return None if self.row_scales else self

    def encode_stream(self, source: MatrixSource, write: Write, stats: Stats | None = None) -> Encoded:
        del stats  # rounding alone
        scales, inverse = self.scales(source)
        header = self._header(source, 1.0 if self.row_scales else float(scales[0]))
        write(header.pack())
        error = total = 0.0
        begin = written = 0
        for chunk in source_chunks(source):
            here = slice(begin, begin + len(chunk)) if self.row_scales else slice(0, 1)
            ternary = round_ternary(chunk, inverse[here])
            packed = self._pack(ternary)
            write(packed)
            written += len(packed)
            ternary *= scales[here, None]
            ternary -= chunk
            error += sum_squares(ternary)
            total += sum_squares(chunk)
            begin += len(chunk)
        if self.row_scales:
            offset, count = self._scales_at(header)
            padded = np.zeros(count, "<f4")
            padded[: source.rows] = scales
            write(bytes(offset - written))
            write(padded.data.cast("B"))
        return Encoded(header, error, total)

    def decode_rows(self, blob: Blob, begin: int, end: int) -> Floats:
        offset, _ = self._scales_at(blob.header)
        return scaled_rows(self._unpack(blob, begin, end), blob, offset, begin)


def scaled_rows(ternary: Floats, blob: Blob, scales_at: int, begin: int) -> Floats:
    """s * t, in place. ternary: float32 (n, columns), rows from `begin` on; scales_at: where the payload has the scales
    of rows, if it has them."""
    if blob.header.flags & FLAG_ROW_SCALES:
        ternary *= np.frombuffer(blob.payload, "<f4", offset=scales_at)[begin : begin + len(ternary), None]
    else:
        ternary *= np.float32(blob.header.scale)
    return ternary


def ternary_scales(source: MatrixSource, by_row: bool) -> tuple[Floats, Floats]:
    """The scales s, float32 (1,) or by row (rows,), and the reciprocals that multiply the weights before rounding.

    ValueError if a value is not finite."""
    return _row_scales(source) if by_row else _tensor_scale(source)


def round_ternary(weight: Floats, inverse: Floats) -> Floats:
    """-1, 0 or 1 per weight, float32 of its shape (rows, columns). inverse: (1,) or (rows,), of ternary_scales."""
    ternary = weight * inverse[:, None]
    np.rint(ternary, out=ternary)
    return np.clip(ternary, -1.0, 1.0, out=ternary)


def _is_ternary(values: Floats, magnitude: float) -> bool:
    """True if every value is -magnitude, 0 or magnitude, exactly."""
    positive = np.abs(values)
    return bool(((positive == 0) | (positive == np.float32(magnitude))).all())


def absmean_scale(mean: NDArray[np.float64]) -> tuple[Floats, Floats]:
    """(scale, reciprocal) of BitNet's rule from mean|W|, both float32."""
    inverse = np.reciprocal(np.maximum(mean, 1e-5).astype(np.float32))
    return np.reciprocal(inverse), inverse


def _tensor_scale(source: MatrixSource) -> tuple[Floats, Floats]:
    """One scale: the exact one of a ternary matrix, else BitNet's. ValueError if a value is not finite."""
    magnitude = 0.0
    total = 0.0
    ternary = True
    for chunk in source_chunks(source):
        positive = np.abs(chunk)
        top = float(positive.max())
        if not math.isfinite(top):
            raise ValueError("the weights hold NaN or infinite values")
        total += float(positive.sum(axis=1).sum(dtype=np.float64))
        if ternary and top > 0:
            magnitude = magnitude or top
            ternary = top == magnitude and _is_ternary(chunk, top)
    if ternary:
        return _exact(np.array([magnitude], np.float32))
    return absmean_scale(np.array([total / (source.rows * source.columns)]))


def _row_scales(source: MatrixSource) -> tuple[Floats, Floats]:
    """As _tensor_scale, for every row by itself: float32 (rows,) twice."""
    scales = np.empty(source.rows, np.float32)
    inverse = np.empty(source.rows, np.float32)
    begin = 0
    for chunk in source_chunks(source):
        here = slice(begin, begin + len(chunk))
        positive = np.abs(chunk)
        top = positive.max(axis=1)
        if not np.isfinite(top).all():
            raise ValueError("the weights hold NaN or infinite values")
        exact = ((positive == 0) | (positive == top[:, None])).all(axis=1)
        s, i = absmean_scale(positive.mean(axis=1, dtype=np.float64))
        s_exact, i_exact = _exact(top)
        scales[here] = np.where(exact, s_exact, s)
        inverse[here] = np.where(exact, i_exact, i)
        begin += len(chunk)
    return scales, inverse


def _exact(magnitude: Floats) -> tuple[Floats, Floats]:
    """Scales of values that are -a, 0, a; where a is 0 the scale is 0. The reciprocal stays finite for subnormal a."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(magnitude > 0, np.float32(1.0) / magnitude, np.float32(0.0))
    return magnitude, np.minimum(inverse, np.finfo(np.float32).max)
