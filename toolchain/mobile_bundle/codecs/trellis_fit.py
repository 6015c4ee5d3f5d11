"""Which scale and which way through the trellis stand for a row's weights.

Shapes: w float32 (rows, columns); counts float32 (columns,), what a squared error of each column counts; d (rows,
groups), as its ScaleType stores it; codes uint8 (rows, groups * group), stored bits in the order of the columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.matrices import Matrix, times
from mobile_bundle.codecs.propagation import (
    SWEEPS,
    Ordered,
    by_rows,
    energy_order,
    importance,
    propagate,
    refine,
    row_gains,
)
from mobile_bundle.codecs.scale_types import ScaleType, Stored, worthwhile
from mobile_bundle.codecs.source import Floats
from mobile_bundle.native.trellis import CIRCLE, search_circles, search_trellis

Codes = NDArray[np.uint8]

PLACES = np.arange(CIRCLE) % 4 * 4 + np.arange(CIRCLE) // 4
"""The column (of 16) at each place of the circle, and the place of each column: the permutation is its own inverse."""
_PER_DEVIATION = {2: 5.36, 2.5: 6.58, 3: 5.28}
"""Levels that make one standard deviation of Gaussian weights, at the least error (packed/trellis_layout.h)."""
_TRIED = (1.0, 1.15)
"""Steps to try, relative to that; a heavy tail wants larger ones."""
_REFITS = 2


@dataclass
class Coded:
    """codes, d as above; values: float32 (rows, columns), what they stand for."""

    codes: Codes
    d: Stored
    values: Floats


@dataclass(frozen=True)
class Layout:
    """bits: 2, 2.5 or 3. group: columns that share a scale. scales: how that is stored."""

    bits: float
    group: int
    scales: ScaleType


def fit(w: Floats, counts: Floats, layout: Layout) -> Coded:
    """Every group of columns by itself."""
    rows, columns = w.shape
    group = layout.group
    groups = -(-columns // group)
    padded, weight = np.zeros((rows, groups * group), np.float32), np.zeros(groups * group, np.float32)
    padded[:, :columns], weight[:columns] = w, counts
    out = Coded(np.empty(padded.shape, np.uint8), np.empty((rows, groups), layout.scales.dtype), np.empty_like(padded))
    for number in range(groups):
        part = slice(number * group, (number + 1) * group)
        best = _fit_group(np.ascontiguousarray(padded[:, part]), weight[part], layout)
        out.codes[:, part], out.values[:, part], out.d[:, number] = best.codes, best.values, best.d[:, 0]
    out.values = out.values[:, :columns]
    return out


@dataclass(frozen=True)
class Rounding:
    """How the columns of a Hessian are coded. blocks: of the order, (begin, end), each of which is a circle."""

    ordered: Ordered
    blocks: list[tuple[int, int]]

    @staticmethod
    def of(hessian: Matrix) -> Rounding:
        """hessian: float32 (columns, columns). ValueError for one that is not finite."""
        return Rounding.by(Ordered.of(hessian, block_order(hessian)))

    @staticmethod
    def by(ordered: Ordered) -> Rounding:
        """Of a Hessian in its order of rounding, block_order's."""
        starts = np.flatnonzero(np.diff(ordered.order // CIRCLE, prepend=-1)).tolist()
        return Rounding(ordered, list(zip(starts, [*starts[1:], len(ordered.order)], strict=True)))


def block_order(hessian: Matrix) -> NDArray[np.intp]:
    """Blocks of 16 columns, those with the most energy first, the columns of each in the order of their places."""
    return _circle_order(energy_order(hessian, CIRCLE))


def fit_propagated(w: Floats, rounding: Rounding, layout: Layout, refined: bool = True) -> Coded:
    """Scales first, to the weights as they are; then blocks of 16 columns, those whose inputs have the most energy
    first, each for the weights as the errors before it have moved them; then, if `refined`, each again; then every row
    gets its strength back (propagation.py). Coarse scales get it after the first time (affine_propagated.py).
    Without `refined` the values are those of scales that are not rounded."""
    rows, columns = w.shape
    bits, group, scales = layout.bits, layout.group, layout.scales
    order, factor = rounding.ordered.order, rounding.ordered.factor
    counts = np.empty(columns, np.float32)
    counts[order] = importance(factor)
    first = fit(w, counts, layout)
    steps = scales.values(first.d)
    circles = np.ascontiguousarray(first.codes.reshape(rows, -1, CIRCLE)[..., PLACES].transpose(1, 0, 2))
    by_group = np.ascontiguousarray(steps.T)

    def code_block(number: int, block: Floats, own: Floats) -> Floats:
        begin, end = rounding.blocks[number]
        column = int(order[begin]) // CIRCLE * CIRCLE
        step = by_group[column // group]
        if end - begin == CIRCLE:  # in the order of the places already
            found, levels = search_trellis(bits, block.T, step, own)
        else:
            places = PLACES[order[begin:end] - column]
            targets = np.zeros((rows, CIRCLE), np.float32)
            targets[:, places] = block.T
            whole = np.diag(np.full(CIRCLE, np.inf, np.float32))  # places without a column do not matter
            whole[np.ix_(places, places)] = own
            found, levels = search_trellis(bits, targets, step, whole)
            levels = levels[:, places]
        circles[column // CIRCLE] = found
        rounded: Floats = (levels * step[:, None]).T
        return rounded

    own = np.ascontiguousarray(w.T[order])
    work = own.copy()
    propagate(work, factor, rounding.blocks, code_block)
    answers = times(w, rounding.ordered.hessian)
    if refined:
        if scales.coarse:
            refine(own, work, rounding.ordered.damped, rounding.blocks, code_block, 1)
            gains = worthwhile(row_gains(w, by_rows(work, order), answers)[:, None])
            steps = scales.values(scales.stored_evenly(steps * gains))
            by_group[:] = steps.T
            own *= gains.T
        sweeps = SWEEPS - 1 if scales.coarse else SWEEPS
        refine(own, work, rounding.ordered.damped, rounding.blocks, code_block, sweeps)
    values = by_rows(work, order)
    if scales.coarse and refined:
        return Coded(_in_columns(circles), scales.stored(steps), values)
    gains = row_gains(w, values, answers)[:, None]
    d = scales.stored(steps * gains)
    if scales.coarse:
        return Coded(_in_columns(circles), d, values * gains)
    used = np.repeat(scales.values(d), group, axis=1)[:, :columns]
    levels = np.divide(values, np.repeat(steps, group, axis=1)[:, :columns], out=np.zeros_like(w), where=values != 0)
    return Coded(_in_columns(circles), d, np.rint(levels) * used)


def _circle_order(order: NDArray[np.intp]) -> NDArray[np.intp]:
    """The same blocks of 16 columns, the columns of each in the order of their places."""
    number, place = order // CIRCLE, PLACES[order % CIRCLE]
    rank = np.empty(int(number.max()) + 1, np.intp)
    rank[number[np.flatnonzero(np.diff(number, prepend=-1))]] = np.arange(len(rank))
    return order[np.lexsort((place, rank[number]))]


def _fit_group(w: Floats, counts: Floats, layout: Layout) -> Coded:
    """The best of a few scales for one group of columns of every row, refined by regression on its levels."""
    energy = np.einsum("rc,rc,c->r", w, w, counts) / np.float32(counts.sum())
    start = np.sqrt(energy) / np.float32(_PER_DEVIATION[layout.bits])
    columns = np.arange(0, w.shape[1], CIRCLE)[:, None] + PLACES
    targets = np.ascontiguousarray(w[:, columns].transpose(1, 0, 2))
    factors = np.zeros((len(columns), CIRCLE, CIRCLE), np.float32)
    with np.errstate(divide="ignore"):
        factors[:, np.arange(CIRCLE), np.arange(CIRCLE)] = 1 / np.sqrt(counts[columns])

    def code(step: Floats) -> tuple[Coded, Floats]:
        """With these steps, float32 (rows,), as they can be stored: d is (rows, 1). And the loss of every row."""
        d = layout.scales.stored(step)
        used = layout.scales.values(d)
        found, levels = (_in_columns(each) for each in search_circles(layout.bits, targets, used, factors))
        values = levels * used[:, None]
        return Coded(found, d[:, None], values), np.einsum("rc,rc,c->r", w - values, w - values, counts)

    best, least = code(start * np.float32(_TRIED[0]))
    for factor in _TRIED[1:]:
        _keep_better(best, least, *code(start * np.float32(factor)))
    for _ in range(_REFITS):
        d = layout.scales.values(best.d)
        levels = np.divide(best.values, d, out=np.zeros_like(w), where=d > 0)  # whole numbers again, nearly
        products, squares = np.einsum("rc,rc,c->r", levels, w, counts), np.einsum("rc,rc,c->r", levels, levels, counts)
        step = np.divide(products, squares, out=np.zeros_like(products), where=squares > 0)
        _keep_better(best, least, *code(np.maximum(step, 0)))
    return best


def _keep_better(best: Coded, least: Floats, other: Coded, loss: Floats) -> None:
    better = loss < least
    best.codes[better], best.d[better], best.values[better] = other.codes[better], other.d[better], other.values[better]
    least[better] = loss[better]


def _in_columns(circles: NDArray[Any]) -> NDArray[Any]:
    """(circles, rows, places) by rows and columns."""
    return circles[..., PLACES].transpose(1, 0, 2).reshape(circles.shape[1], -1)
