"""Which fp16 scale (and offset) and which codes stand for a group of weights, without data: least squared error.

A group's G weights w become d * code (symmetric) or d * code + m. A handful of candidates is tried per group and the
one with the smallest squared error kept:
  1. the plain range: no weight is clipped;
  2. the range shrunk by fixed factors: a few weights are clipped, the others get finer steps;
  3. for the codes of the best so far, the d (and m) that minimise the squared error in closed form (linear regression
     of w on the codes), then codes anew: a step of Lloyd's algorithm for a uniform quantiser, `refits` times.
The codes are always chosen with the fp16 values that are stored, so a rounded scale costs nothing extra.

Shapes: w float32 (n, G), groups in rows; d, m float16 (n,); codes float32 (n, G), whole numbers; importance float32
(G,) is what a squared error in each column counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.source import Floats

Halves = NDArray[np.float16]


@dataclass
class Fit:
    """The best candidate so far. error: float32 (n,), the group's sum of squared differences."""

    codes: Floats
    d: Halves
    m: Halves | None
    error: Floats


def fit_symmetric(
    w: Floats, low: int, high: int, shrink: tuple[float, ...], refits: int, importance: Floats | None = None
) -> Fit:
    """Codes low..high (whole numbers, low = -high - 1, or -high for 8 bits) and w = d * code.

    Where the range is lopsided (low = -high - 1) d takes the sign that puts the largest magnitude on `low`.
    """
    top, bottom = w.max(axis=1), w.min(axis=1)
    if low == -high:
        reach = np.maximum(top, -bottom) / np.float32(high)
    else:
        reach = np.where(top >= -bottom, top, bottom) / np.float32(low)
    h = _importance(w, importance)
    best: Fit | None = None
    for factor in shrink:
        best = _better(best, _try(w, _half(reach * np.float32(factor)), None, low, high, h))
    assert best is not None
    for _ in range(refits):
        weighted = best.codes * h
        products = np.einsum("ng,ng->n", weighted, w)
        squares = np.einsum("ng,ng->n", weighted, best.codes)
        d = np.divide(products, squares, out=np.zeros_like(products), where=squares > 0)
        best = _better(best, _try(w, _half(d), None, low, high, h))
    return best


def fit_asymmetric(
    w: Floats, low: int, high: int, shrink: tuple[float, ...], refits: int, importance: Floats | None = None
) -> Fit:
    """Codes low..high and w = d * code + m."""
    top, bottom = w.max(axis=1), w.min(axis=1)
    middle, half = (top + bottom) * np.float32(0.5), (top - bottom) * np.float32(0.5)
    h = _importance(w, importance)
    count = np.float32(h.sum())
    best: Fit | None = None
    for factor in shrink:
        reach = half * np.float32(factor)
        d = _half(reach * np.float32(2.0 / (high - low)))
        best = _better(best, _try(w, d, _half(middle - reach - np.float32(low) * d), low, high, h))
    assert best is not None
    total = w @ h
    for _ in range(refits):
        weighted = best.codes * h
        sums = weighted.sum(axis=1)
        squares = np.einsum("ng,ng->n", weighted, best.codes)
        products = np.einsum("ng,ng->n", weighted, w)
        spread = count * squares - sums * sums
        d = np.divide(count * products - sums * total, spread, out=np.zeros_like(spread), where=spread > 0)
        stored = _half(d)
        best = _better(best, _try(w, stored, _half((total - stored * sums) / count), low, high, h))
    return best


def _half(values: Floats) -> Halves:
    """Rounded to fp16; the caller's scaling keeps them in range."""
    return values.astype(np.float16)


def _importance(w: Floats, importance: Floats | None) -> Floats:
    """Of every column, float32 (G,), their mean 1."""
    if importance is None:
        return np.ones(w.shape[1], np.float32)
    counts: Floats = importance / importance.mean()
    return counts


def _try(w: Floats, d: Halves, m: Halves | None, low: int, high: int, importance: Floats) -> Fit:
    """The nearest codes for the given d and m, and their error."""
    step = d.astype(np.float32)
    inverse = np.divide(np.float32(1.0), step, out=np.zeros_like(step), where=step != 0)
    if m is None:
        codes = w * inverse[:, None]
    else:
        offset = m.astype(np.float32)
        codes = w - offset[:, None]
        codes *= inverse[:, None]
    np.rint(codes, out=codes)
    np.maximum(codes, np.float32(low), out=codes)
    np.minimum(codes, np.float32(high), out=codes)
    back = codes * step[:, None]
    if m is not None:
        back += offset[:, None]
    back -= w
    np.square(back, out=back)
    error: Floats = (back @ importance).astype(np.float32)
    return Fit(codes, d, m, error)


def _better(best: Fit | None, new: Fit) -> Fit:
    """The smaller error, group by group. `best` is changed in place."""
    if best is None:
        return new
    wins = new.error < best.error
    np.copyto(best.codes, new.codes, where=wins[:, None])
    np.copyto(best.d, new.d, where=wins)
    if best.m is not None and new.m is not None:
        np.copyto(best.m, new.m, where=wins)
    np.copyto(best.error, new.error, where=wins)
    return best
