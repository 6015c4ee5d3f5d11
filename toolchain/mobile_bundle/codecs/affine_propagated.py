"""Affine codes with error propagation (GPTQ): the columns still to come make up for what was rounded before them.

Frantar et al. 2023, arXiv:2210.17323, section 3.3. Scales and offsets are fitted first, to the weights as they are,
each column counting by its importance (propagation.py). Then the columns are rounded in the order of the energy of
their inputs: those that matter most are rounded while most others can still make up for them. Then each is rounded
again (propagation.refine), and at last every row gets back the strength that rounding took from it
(propagation.row_gains). Scales of one byte are too coarse to take that up: there the rows get it after the first
round, as scales and as targets, so that codes make up for what rounding the scales does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.affine_fit import Fit
from mobile_bundle.codecs.affine_steps import Steps, StepType
from mobile_bundle.codecs.matrices import Matrix, beside, times
from mobile_bundle.codecs.propagation import (
    SWEEPS,
    Ordered,
    by_rows,
    energy_order,
    importance,
    propagate_runs,
    refine_runs,
    row_gains,
    squares_of_runs,
)
from mobile_bundle.codecs.scale_types import worthwhile
from mobile_bundle.codecs.source import Floats
from mobile_bundle.native.affine import AffineGrids, round_run


@dataclass(frozen=True)
class Propagated:
    """codes: float32 (rows, groups * group), 0 in padding columns; d, m: (rows, groups), as they are decoded; values:
    float32 (rows, columns), what the codes stand for."""

    codes: Floats
    d: Steps
    m: Steps
    values: Floats


@dataclass(frozen=True)
class Grid:
    """Codes low..high of a group of columns, how d and m of such a group are fitted, fit(w of the group, importance),
    and how they are stored."""

    group: int
    low: int
    high: int
    fit: Callable[[Floats, Floats | None], Fit]
    stored: StepType


@dataclass(frozen=True)
class Rounding:
    """How the columns of a Hessian, float32 (columns, columns), are rounded, and the importance of every column."""

    ordered: Ordered
    counts: Floats

    @staticmethod
    def of(hessian: Matrix) -> Rounding:
        """ValueError for a Hessian that is not finite."""
        return Rounding.by(Ordered.of(hessian, energy_order(hessian)))

    @staticmethod
    def by(ordered: Ordered) -> Rounding:
        """Of a Hessian in its order of rounding, energy_order's."""
        counts = np.empty(len(ordered.order), np.float32)
        counts[ordered.order] = importance(ordered.factor)
        return Rounding(ordered, counts)


def fit_propagated(w: Floats, rounding: Rounding, grid: Grid) -> Propagated:
    """w: float32 (rows, columns)."""
    rows, columns = w.shape
    group = grid.group
    hessian, order, factor = rounding.ordered.hessian, rounding.ordered.order, rounding.ordered.factor
    d, m = _steps(w, grid, rounding.counts)
    steps, offsets = (np.ascontiguousarray(each.T, np.float32) for each in (d, m))
    levels = [np.full(rows, end, np.float32) for end in (grid.low, grid.high)]
    grids = _grids(order // group, steps, offsets, *levels)
    own = np.ascontiguousarray(w.T[order])
    work, found = own.copy(), np.empty_like(own)
    _propagate(work, factor, grids, found)
    answers = times(w, hessian)
    if grid.stored.coarse:
        _refine(own, work, rounding.ordered.damped, grids, found, 1)
        gains = worthwhile(row_gains(w, by_rows(work, order), answers)[:, None])
        d, m = grid.stored.stronger(d, m, gains)
        own *= gains.T
        grids = _grids(order // group, *(np.ascontiguousarray(each.T, np.float32) for each in (d, m)), *levels)
    _refine(own, work, rounding.ordered.damped, grids, found, SWEEPS - 1 if grid.stored.coarse else SWEEPS)
    codes = np.zeros((rows, d.shape[1] * group), np.float32)
    codes[:, order] = found.T
    if not grid.stored.coarse:
        gains = row_gains(w, by_rows(work, order), answers)[:, None]
        d, m = grid.stored.stronger(d, m, gains)
    groups = codes.reshape(rows, -1, group) * d.astype(np.float32)[..., None] + m.astype(np.float32)[..., None]
    return Propagated(codes, d, m, groups.reshape(rows, -1)[:, :columns])


def try_grids(w: Floats, rounding: Rounding, grids: Sequence[Grid]) -> Floats:
    """The values that fit_propagated would give on each grid without `refine`, float32 (grids, rows, columns), for a
    few rows: rounded side by side, which takes little longer than one grid."""
    rows, columns = w.shape
    hessian, order, factor = rounding.ordered.hessian, rounding.ordered.order, rounding.ordered.factor
    steps = np.empty((columns, len(grids) * rows), np.float32)
    offsets = np.empty_like(steps)
    for number, grid in enumerate(grids):
        d, m = _steps(w, grid, rounding.counts)
        at, own = np.arange(columns) // grid.group, slice(number * rows, (number + 1) * rows)
        steps[:, own], offsets[:, own] = d.T[at], m.T[at]
    levels = (np.repeat(np.array([getattr(grid, end) for grid in grids], np.float32), rows) for end in ("low", "high"))
    work = np.tile(w.T[order], (1, len(grids)))
    _propagate(work, factor, _grids(order, steps, offsets, *levels), np.empty_like(work))
    values = np.empty((columns, len(grids) * rows), np.float32)
    values[order] = work
    out = np.ascontiguousarray(values.T).reshape(len(grids), rows, columns)
    answers = times(w, hessian)
    for each in out:
        each *= row_gains(w, each, answers)[:, None]
    return out


def _steps(w: Floats, grid: Grid, counts: Floats) -> tuple[Floats, Floats]:
    """d and m, float32 (rows, groups)."""
    rows, columns = w.shape
    groups = -(-columns // grid.group)
    d, m = np.zeros((rows, groups), np.float32), np.zeros((rows, groups), np.float32)
    for number in range(groups):
        part = slice(number * grid.group, min((number + 1) * grid.group, columns))
        fitted = grid.fit(np.ascontiguousarray(w[:, part]), counts[part])
        d[:, number] = fitted.d
        if fitted.m is not None:
            m[:, number] = fitted.m
    return d, m


def _grids(at: NDArray[np.intp], steps: Floats, offsets: Floats, lows: Floats, highs: Floats) -> AffineGrids:
    inverse = np.divide(np.float32(1), steps, out=np.zeros_like(steps), where=steps != 0)
    return AffineGrids(at.astype(np.uint32), steps, offsets, inverse, lows, highs)


def _propagate(work: Floats, factor: Matrix, grids: AffineGrids, codes: Floats) -> None:
    """propagation.propagate, column by column. work, codes: float32 (columns, rows), overwritten."""

    columns = _single(work)
    runs = squares_of_runs(factor, columns)

    def rounded(first: int, end: int) -> Floats:
        return round_run(work[first:end], None, *_run(runs, grids, first, end), codes[first:end])

    propagate_runs(work, factor, columns, rounded)


def _refine(own: Floats, work: Floats, h: Matrix, grids: AffineGrids, codes: Floats, sweeps: int) -> None:
    """propagation.refine, column by column."""

    columns = _single(work)
    runs = squares_of_runs(h, columns)

    def rounded(first: int, end: int, slopes: Floats) -> Floats:
        return round_run(work[first:end], slopes, *_run(runs, grids, first, end), codes[first:end])

    refine_runs(h @ beside(own - work, h), h, columns, rounded, sweeps)


def _run(runs: Mapping[int, Floats], grids: AffineGrids, first: int, end: int) -> tuple[Floats, int, AffineGrids]:
    """round_run's matrix, begin and grids for columns first..end-1."""
    return np.ascontiguousarray(runs[first]), 0, replace(grids, at=grids.at[first:end])


def _single(work: Floats) -> list[tuple[int, int]]:
    """Every column a block of its own."""
    return [(column, column + 1) for column in range(len(work))]
