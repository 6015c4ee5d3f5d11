"""Affine codes with error propagation (GPTQ): the columns still to come make up for what is rounded away before them.

Frantar et al. 2023, arXiv:2210.17323, section 3.3. Scales and offsets of a group are fitted when its first column is
reached, to the weights as corrected by then, each column counting by its importance (propagation.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mobile_bundle.codecs.affine_fit import Fit, Halves
from mobile_bundle.codecs.codec import sum_squares
from mobile_bundle.codecs.propagation import importance, inverse_factor, propagate
from mobile_bundle.codecs.source import Floats


@dataclass(frozen=True)
class Propagated:
    """codes: float32 (rows, groups * group), 0 in padding columns; d, m: float16 (rows, groups); squared_error: of the
    weights themselves, which propagation makes larger, not smaller."""

    codes: Floats
    d: Halves
    m: Halves
    squared_error: float


def fit_propagated(
    w: Floats, hessian: Floats, group: int, low: int, high: int, fit: Callable[[Floats, Floats | None], Fit]
) -> Propagated:
    """w: float32 (rows, columns); hessian: float32 (columns, columns); fit(w of a group, importance) gives d and m."""
    rows, columns = w.shape
    groups = -(-columns // group)
    factor = inverse_factor(hessian)
    counts = importance(factor)
    codes = np.zeros((rows, groups * group), np.float32)
    d, m = np.zeros((rows, groups), np.float16), np.zeros((rows, groups), np.float16)

    def round_column(number: int, block: Floats, _: Floats) -> Floats:
        step, offset = d[:, number // group].astype(np.float32), m[:, number // group].astype(np.float32)
        inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step != 0)
        code = np.clip(np.rint((block[0] - offset) * inverse), low, high)
        codes[:, number] = code
        rounded: Floats = (code * step + offset)[None]
        return rounded

    def round_group(number: int, block: Floats, own: Floats) -> Floats:
        begin = number * group
        fitted = fit(np.ascontiguousarray(block.T), counts[begin : begin + len(block)])
        d[:, number] = fitted.d
        if fitted.m is not None:
            m[:, number] = fitted.m
        rounded = block.copy()
        columns_here = [(i, i + 1) for i in range(len(block))]
        propagate(rounded, own, columns_here, lambda i, column, u: round_column(begin + i, column, u))
        return rounded

    work = np.ascontiguousarray(w.T)
    propagate(work, factor, [(i, min(i + group, columns)) for i in range(0, columns, group)], round_group)
    work -= w.T
    return Propagated(codes, d, m, sum_squares(work))
