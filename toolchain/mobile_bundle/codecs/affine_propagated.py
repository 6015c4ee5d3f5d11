"""Affine codes with error propagation (GPTQ): the columns still to come make up for what was rounded before them.

Frantar et al. 2023, arXiv:2210.17323, section 3.3. Scales and offsets are fitted first, to the weights as they are,
each column counting by its importance (propagation.py). Then the columns are rounded in the order of the energy of
their inputs: those that matter most are rounded while most others can still make up for them. At last every row gets
back the strength that rounding took from it (propagation.row_gains).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.affine_fit import Fit, Halves
from mobile_bundle.codecs.propagation import energy_order, importance, inverse_factor, propagate, row_gains
from mobile_bundle.codecs.source import Floats


@dataclass(frozen=True)
class Propagated:
    """codes: float32 (rows, groups * group), 0 in padding columns; d, m: float16 (rows, groups); values: float32
    (rows, columns), what the codes stand for."""

    codes: Floats
    d: Halves
    m: Halves
    values: Floats


@dataclass(frozen=True)
class Grid:
    """Codes low..high of a group of columns, and how d and m of such a group are fitted: fit(w of the group,
    importance)."""

    group: int
    low: int
    high: int
    fit: Callable[[Floats, Floats | None], Fit]


def fit_propagated(w: Floats, hessian: Floats, grid: Grid) -> Propagated:
    """w: float32 (rows, columns); hessian: float32 (columns, columns)."""
    rows, columns = w.shape
    group = grid.group
    order, factor, counts = _rounding(hessian)
    d, m = _steps(w, grid, counts)
    codes = np.zeros((rows, d.shape[1] * group), np.float32)
    # one column's values lie together
    steps, offsets = (np.ascontiguousarray(each.T, np.float32) for each in (d, m))
    inverse = np.divide(np.float32(1), steps, out=np.zeros_like(steps), where=steps != 0)

    def round_column(number: int, block: Floats, _: Floats) -> Floats:
        column = order[number]
        at = column // group
        code = _codes(block[0], offsets[at], inverse[at], grid.low, grid.high)
        codes[:, column] = code
        code *= steps[at]
        code += offsets[at]
        return code[None]

    work = np.ascontiguousarray(w.T[order])
    propagate(work, factor, [(i, i + 1) for i in range(columns)], round_column)
    values = np.empty_like(w)
    values[:, order] = work.T
    gains = row_gains(w, values, hessian)[:, None]
    d, m = (d * gains).astype(np.float16), (m * gains).astype(np.float16)
    groups = codes.reshape(rows, -1, group) * d.astype(np.float32)[..., None] + m.astype(np.float32)[..., None]
    return Propagated(codes, d, m, groups.reshape(rows, -1)[:, :columns])


def try_grids(w: Floats, hessian: Floats, grids: Sequence[Grid]) -> Floats:
    """The values that fit_propagated would give on each grid, float32 (grids, rows, columns), for a few rows: rounded
    side by side, which takes little longer than one grid."""
    rows, columns = w.shape
    order, factor, counts = _rounding(hessian)
    steps = np.empty((columns, len(grids) * rows), np.float32)
    offsets = np.empty_like(steps)
    for number, grid in enumerate(grids):
        d, m = _steps(w, grid, counts)
        at, own = np.arange(columns) // grid.group, slice(number * rows, (number + 1) * rows)
        steps[:, own], offsets[:, own] = d.T[at], m.T[at]
    inverse = np.divide(np.float32(1), steps, out=np.zeros_like(steps), where=steps != 0)
    low, high = (
        np.repeat(np.array([getattr(grid, end) for grid in grids], np.float32), rows) for end in ("low", "high")
    )

    def round_column(number: int, block: Floats, _: Floats) -> Floats:
        column = order[number]
        code = _codes(block[0], offsets[column], inverse[column], low, high)
        code *= steps[column]
        code += offsets[column]
        return code[None]

    work = np.tile(w.T[order], (1, len(grids)))
    propagate(work, factor, [(i, i + 1) for i in range(columns)], round_column)
    values = np.empty((columns, len(grids) * rows), np.float32)
    values[order] = work
    out = np.ascontiguousarray(values.T).reshape(len(grids), rows, columns)
    for each in out:
        each *= row_gains(w, each, hessian)[:, None]
    return out


def _rounding(hessian: Floats) -> tuple[NDArray[np.intp], Floats, Floats]:
    """The order of rounding, U in that order, and the importance of every column."""
    order = energy_order(hessian)
    factor = inverse_factor(hessian, order)
    counts = np.empty(len(order), np.float32)
    counts[order] = importance(factor)
    return order, factor, counts


def _steps(w: Floats, grid: Grid, counts: Floats) -> tuple[Halves, Halves]:
    """d and m, float16 (rows, groups)."""
    rows, columns = w.shape
    groups = -(-columns // grid.group)
    d, m = np.zeros((rows, groups), np.float16), np.zeros((rows, groups), np.float16)
    for number in range(groups):
        part = slice(number * grid.group, min((number + 1) * grid.group, columns))
        fitted = grid.fit(np.ascontiguousarray(w[:, part]), counts[part])
        d[:, number] = fitted.d
        if fitted.m is not None:
            m[:, number] = fitted.m
    return d, m


def _codes(w: Floats, offsets: Floats, inverse: Floats, low: Floats | float, high: Floats | float) -> Floats:
    code: Floats = w - offsets
    code *= inverse
    np.rint(code, out=code)
    np.maximum(code, low, out=code)
    np.minimum(code, high, out=code)
    return code
