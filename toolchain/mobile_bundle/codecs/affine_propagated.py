"""Affine codes with error propagation (GPTQ): the columns still to come make up for what was rounded before them.

Frantar et al. 2023, arXiv:2210.17323, section 3.3. Scales and offsets are fitted first, to the weights as they are,
each column counting by its importance (propagation.py). Then the columns are rounded in the order of the energy of
their inputs: those that matter most are rounded while most others can still make up for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mobile_bundle.codecs.affine_fit import Fit, Halves
from mobile_bundle.codecs.propagation import energy_order, importance, inverse_factor, propagate
from mobile_bundle.codecs.source import Floats


@dataclass(frozen=True)
class Propagated:
    """codes: float32 (rows, groups * group), 0 in padding columns; d, m: float16 (rows, groups); values: float32
    (rows, columns), what the codes stand for."""

    codes: Floats
    d: Halves
    m: Halves
    values: Floats


def fit_propagated(
    w: Floats, hessian: Floats, group: int, low: int, high: int, fit: Callable[[Floats, Floats | None], Fit]
) -> Propagated:
    """w: float32 (rows, columns); hessian: float32 (columns, columns); fit(w of a group, importance) gives d and m."""
    rows, columns = w.shape
    groups = -(-columns // group)
    order = energy_order(hessian)
    factor = inverse_factor(hessian, order)
    counts = np.empty(columns, np.float32)
    counts[order] = importance(factor)
    d, m = np.zeros((rows, groups), np.float16), np.zeros((rows, groups), np.float16)
    for number in range(groups):
        part = slice(number * group, min((number + 1) * group, columns))
        fitted = fit(np.ascontiguousarray(w[:, part]), counts[part])
        d[:, number] = fitted.d
        if fitted.m is not None:
            m[:, number] = fitted.m
    codes = np.zeros((rows, groups * group), np.float32)
    steps, offsets = d.astype(np.float32), m.astype(np.float32)
    inverse = np.divide(np.float32(1), steps, out=np.zeros_like(steps), where=steps != 0)

    def round_column(number: int, block: Floats, _: Floats) -> Floats:
        column = order[number]
        at = column // group
        code = np.clip(np.rint((block[0] - offsets[:, at]) * inverse[:, at]), low, high)
        codes[:, column] = code
        rounded: Floats = (code * steps[:, at] + offsets[:, at])[None]
        return rounded

    work = np.ascontiguousarray(w.T[order])
    propagate(work, factor, [(i, i + 1) for i in range(columns)], round_column)
    values = np.empty_like(w)
    values[:, order] = work.T
    return Propagated(codes, d, m, values)
