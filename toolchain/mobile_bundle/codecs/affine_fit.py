"""Which scale (and offset) and which codes stand for a group of weights.

A group's G weights w become d * code (symmetric) or d * code + m. A handful of candidates is tried per group and the
one with the smallest squared error kept, each weight's error counted by its importance. The candidates:
  1. the plain range: no weight is clipped;
  2. the range shrunk by fixed factors: a few weights are clipped, the others get finer steps;
  3. for the codes of the best so far, the d (and m) that minimise the squared error in closed form (linear regression
     of w on the codes), then codes anew: a step of Lloyd's algorithm for a uniform quantiser, `refits` times.
The codes are always chosen with the values that are stored, so a rounded scale costs nothing extra.

Shapes: w float32 (n, G), groups in rows; d, m (n,), as affine_steps.py stores them; codes float32 (n, G), whole
numbers; importance float32 (G,) or (n, G) is what a squared error of each weight counts, None: all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.affine_steps import Steps, StepType
from mobile_bundle.codecs.source import Floats

Halves = NDArray[np.float16]


@dataclass
class Fit:
    """The best candidate so far. error: float32 (n,), the group's sum of squared differences; score: the same of
    weighted ones, by which candidates are compared."""

    codes: Floats
    d: Steps
    m: Steps | None
    error: Floats
    score: Floats


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
    w: Floats,
    low: int,
    high: int,
    shrink: tuple[float, ...],
    refits: int,
    importance: Floats | None = None,
    *,
    stored: StepType,
) -> Fit:
    """Codes low..high and w = d * code + m. stored: what d and m can be."""
    top, bottom = w.max(axis=1), w.min(axis=1)
    if stored.zero_inside:
        top, bottom = np.maximum(top, 0), np.minimum(bottom, 0)
    middle, half = (top + bottom) * np.float32(0.5), (top - bottom) * np.float32(0.5)
    h = _importance(w, importance)
    count = h.sum(axis=-1)
    best: Fit | None = None
    for factor in shrink:
        reach = half * np.float32(factor)
        d = stored.scale(reach * np.float32(2.0 / (high - low)))
        best = _better(best, _try(w, d, stored.offset(middle - reach - np.float32(low) * d, d), low, high, h))
    assert best is not None
    total = (w * h).sum(axis=1)
    for _ in range(refits):
        weighted = best.codes * h
        sums = weighted.sum(axis=1)
        squares = np.einsum("ng,ng->n", weighted, best.codes)
        products = np.einsum("ng,ng->n", weighted, w)
        spread = count * squares - sums * sums
        d = np.divide(count * products - sums * total, spread, out=np.zeros_like(spread), where=spread > 0)
        step = stored.scale(d)
        best = _better(best, _try(w, step, stored.offset((total - step * sums) / count, step), low, high, h))
    return best


def large_ones_count(w: Floats) -> Floats:
    """Importance without data, (n, G): w**2 + mean(w**2) of the group.

    For symmetric codes of 4 bits: the range of smallest squared error clips the few large weights to serve the many
    small ones, and a model loses more by that than the error says. SmolLM2-135M off the grid of its GGUF, groups of 64:
    perplexity 44.2 by squared error, 37.3 so; at 5 and 6 bits and with offsets squared error is as good or better.
    """
    squares = np.square(w)
    mean = squares.mean(axis=1, keepdims=True)
    counts: Floats = np.divide(squares, mean, out=np.zeros_like(squares), where=mean > 0) + np.float32(1)
    return counts


def _half(values: Floats) -> Halves:
    """Rounded to fp16; the caller's scaling keeps them in range."""
    return values.astype(np.float16)


def _importance(w: Floats, importance: Floats | None) -> Floats:
    """Of every weight, float32 (G,) or (n, G), their mean 1."""
    if importance is None:
        return np.ones(w.shape[1], np.float32)
    counts: Floats = importance / importance.mean(axis=-1, keepdims=True)
    return counts


def _try(w: Floats, d: Steps, m: Steps | None, low: int, high: int, importance: Floats) -> Fit:
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
    error = back.sum(axis=1)
    back *= importance
    return Fit(codes, d, m, error, back.sum(axis=1))


def _better(best: Fit | None, new: Fit) -> Fit:
    """The smaller score, group by group. `best` is changed in place."""
    if best is None:
        return new
    wins = new.score < best.score
    np.copyto(best.codes, new.codes, where=wins[:, None])
    np.copyto(best.d, new.d, where=wins)
    if best.m is not None and new.m is not None:
        np.copyto(best.m, new.m, where=wins)
    np.copyto(best.error, new.error, where=wins)
    np.copyto(best.score, new.score, where=wins)
    return best
