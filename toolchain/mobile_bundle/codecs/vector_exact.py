"""Matrices whose vectors are entries of one codebook already, row by row times a scale: what healing trains.

A row of such a matrix is d * q with whole numbers q, whose d affine_exact.py finds; the vectors of q are the codebook.
Where all codes of a row share a factor, it finds d times that: such a row has few different vectors (a row of zeros has
one), and they become entries of the other rows' codebook when they are multiplied by it."""

from __future__ import annotations

import numpy as np

from mobile_bundle.codecs.affine import power_of_two_scale
from mobile_bundle.codecs.affine_exact import Whole, all_exact, fit_exact
from mobile_bundle.codecs.affine_fit import Halves
from mobile_bundle.codecs.source import Floats
from mobile_bundle.codecs.vector_blob import VectorParts
from mobile_bundle.codecs.vector_layout import VectorLayout

_LARGEST = 127
_MANY = 16
"""Different vectors of a row whose codes share no factor, as good as surely."""


def fit_vectors(layout: VectorLayout, weight: Floats) -> VectorParts | None:
    """The parts that decode to exactly this matrix; None if there are none, for a codebook that other matrices share,
    and for layouts with a residual or outliers. weight: float32 (rows, columns)."""
    if layout.shared or layout.residual_bits or layout.outliers:
        return None
    largest = float(np.abs(weight).max(initial=0))
    if largest == 0:
        return None
    scale = power_of_two_scale(largest)
    rows = weight * np.float32(1 / scale)  # exact: a power of two
    if not all_exact(rows, -_LARGEST, _LARGEST, False):
        return None
    exact = fit_exact(rows, -_LARGEST, _LARGEST, False)
    vectors = -(-weight.shape[1] // layout.length)
    codes = np.zeros((len(rows), vectors * layout.length), np.int64)
    codes[:, : weight.shape[1]] = exact.codes * np.where(exact.d < 0, -1, 1)[:, None]  # scales are positive here
    codes = codes.reshape(len(rows), vectors, layout.length)
    d = _refined(codes, np.abs(exact.d))
    book, indices = np.unique(codes.reshape(-1, layout.length), axis=0, return_inverse=True)
    if len(book) > 1 << layout.index_bits:
        return None
    return VectorParts(
        layout,
        weight.shape[1],
        scale,
        d,
        book.astype(np.int8),
        None,
        indices.reshape(len(rows), vectors).astype(np.uint16),
        None,
        np.zeros(0, np.uint32),
        np.zeros((len(rows), 0), np.int8),
    )


def _refined(codes: Whole, d: Halves) -> Halves:
    """Brings rows of few different vectors to the codebook of the others, in place: codes int64 (rows, vectors,
    length). Returns their d."""
    keys = _keys(codes)
    many = np.array([len(np.unique(row)) >= _MANY for row in keys])
    if many.all() or not many.any():
        return d
    book, found = np.unique(keys[many]), d.copy()
    for row in np.flatnonzero(~many):
        largest = int(np.abs(codes[row]).max())
        for factor in range(1, _LARGEST // max(largest, 1) + 1):
            finer = np.float16(np.float64(d[row]) / factor)
            if np.float64(finer) * factor == np.float64(d[row]) and np.isin(_keys(codes[row] * factor), book).all():
                codes[row] *= factor
                found[row] = finer
                break
    return found


def _keys(codes: Whole) -> Whole:
    """A number for every vector, int64, of codes int64 (..., length) below 128: different for vectors of up to 8."""
    return (codes + 128) @ (256 ** np.arange(codes.shape[-1]))
