"""Error propagation: what one column's rounding breaks, the columns that are still to come repair.

The loss of a layer's output is tr(D H D^T) for D = W - W' and H the mean of x x^T over its inputs. With the upper
triangular U of H^-1 = U^T U, rounding column j at an error of d moves the best values of the columns k > j by
-d / U[j, j] * U[j, k], and the total loss is the sum of (d / U[j, j])^2 (GPTQ: Frantar et al. 2023, arXiv:2210.17323,
sections 3.2 and 3.3; for vectors of columns GPTVQ: van Baalen et al. 2024, arXiv:2402.15319, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.matrices import Matrix, beside, is_finite, on_host, times
from mobile_bundle.codecs.source import Floats

DAMPING = 0.01
"""Part of H's mean diagonal that is added to the diagonal: what the text hardly showed must not be rounded at will."""
_LAZY = 64
"""Columns whose corrections reach the columns far behind them together, as one matrix product."""

SWEEPS = 3

_MOST_GAIN = 1.25
"""For rows that were coded so badly that their gain says little."""

Reals = NDArray[np.floating]
Quantise = Callable[[int, Floats, Floats], Floats]
"""(number of the block, its weights (width, rows) as corrected so far, U's block (width, width)) -> new values."""


def inverse_factor(hessian: Matrix, order: NDArray[np.intp] | None = None, quick: bool = False) -> Matrix:
    """U, float32 (n, n), upper triangular, of the damped Hessian, where that lies; order: the sequence in which columns
    are rounded. quick: by float32 where that is enough, for estimates; it takes half the time, and much of a wide
    matrix's.

    ValueError for a Hessian that is not finite."""
    damped = _damped(hessian, order)
    if quick:
        try:
            return _inverse_upper(_single(damped))
        except np.linalg.LinAlgError:
            pass
    return _inverse_upper(damped)


@dataclass(frozen=True)
class Ordered:
    """A Hessian in the order of rounding. hessian: as it was given; order: number of the column that is rounded first,
    second, ...; damped: float32 (n, n), in that order, where the Hessian lies; factor: its U."""

    hessian: Matrix
    order: NDArray[np.intp]
    damped: Matrix
    factor: Matrix

    @staticmethod
    def of(hessian: Matrix, order: NDArray[np.intp], quick: bool = False) -> Ordered:
        """quick: inverse_factor's. ValueError for a Hessian that is not finite."""
        damped = _single(_damped(hessian, order))
        return Ordered(hessian, order, damped, inverse_factor(hessian, order, quick))


def _damped(hessian: Matrix, order: NDArray[np.intp] | None) -> Matrix:
    """In float64."""
    if not is_finite(hessian):
        raise ValueError("the Hessian holds NaN or infinite values")
    h = hessian.astype(np.float64) if isinstance(hessian, np.ndarray) else hessian.double()
    if order is not None:
        at = beside(order, hessian)
        h = h[at[:, None], at]
    mean = float(h.diagonal().mean())
    own = beside(np.arange(len(h)), h)
    h[own, own] += DAMPING * mean if mean > 0 else 1.0
    return h


def _single(matrix: Matrix) -> Matrix:
    """As float32."""
    return matrix.astype(np.float32) if isinstance(matrix, np.ndarray) else matrix.float()


def _inverse_upper(h: Matrix) -> Matrix:
    """float32. LinAlgError for a matrix that is not positive definite in its own precision."""
    # H = R R^T with R upper triangular: Cholesky of H read backwards. Then H^-1 = R^-T R^-1, so U = R^-1.
    if isinstance(h, np.ndarray):
        return np.ascontiguousarray(_inverse_lower(np.ascontiguousarray(h[::-1, ::-1]))[::-1, ::-1], np.float32)
    import torch

    lower, failed = torch.linalg.cholesky_ex(h.flip(0, 1))
    if failed:
        raise np.linalg.LinAlgError("the matrix is not positive definite")
    return torch.linalg.solve_triangular(lower, torch.zeros_like(h).fill_diagonal_(1), upper=False).flip(0, 1).float()


def energy_order(hessian: Matrix, length: int = 1) -> NDArray[np.intp]:
    """The sequence in which columns are rounded: the inputs of the highest energy first, while the most columns are
    left to make up for their errors (GPTQ's activation order). length: so many columns are rounded together."""
    columns = len(hessian)
    energy = np.zeros(-(-columns // length) * length, np.float32)
    energy[:columns] = on_host(hessian.diagonal())
    blocks = np.argsort(-energy.reshape(-1, length).sum(1), kind="stable")
    order = (blocks[:, None] * length + np.arange(length)).reshape(-1)
    return order[order < columns]


def _inverse_lower(h: Reals) -> Reals:
    """L^-1 of H = L L^T, by halves: matrix products, which are several times as fast as LAPACK's own way."""
    n = len(h)
    if n <= 64:
        inverse: Reals = np.tril(np.linalg.inv(np.linalg.cholesky(h)))
        return inverse
    half = n // 2
    out = np.zeros_like(h)
    first = out[:half, :half] = _inverse_lower(h[:half, :half])
    below = h[half:, :half] @ first.T
    second = out[half:, half:] = _inverse_lower(h[half:, half:] - below @ below.T)
    out[half:, :half] = -second @ (below @ first)
    return out


def propagate(weight: Floats, factor: Matrix, blocks: Sequence[tuple[int, int]], quantise: Quantise) -> None:
    """Rounds `weight` block by block, each corrected for the errors before it.

    weight: float32 (columns, rows), columns in the order of rounding; overwritten by what `quantise` returns.
    factor: U of the same order. blocks: (begin, end) columns that are rounded together, in order, without gaps."""
    runs = squares_of_runs(factor, blocks)

    def round_run(first: int, at: int) -> Floats:
        start, stop = blocks[first][0], blocks[at - 1][1]
        errors = np.empty((stop - start, weight.shape[1]), np.float32)
        run = runs[first]
        for number in range(first, at):
            begin, end = blocks[number]
            own = run[begin - start : end - start, begin - start : end - start]
            block = weight[begin:end]
            rounded = quantise(number, block, own)
            error = errors[begin - start : end - start]
            np.subtract(block, rounded, out=error)
            # the errors e of e U_block = difference, row vectors; here columns, hence the transposed solve
            if end - begin == 1:
                error /= own[0, 0]
            else:
                error[:] = np.linalg.inv(own.T.astype(np.float64)) @ error
            weight[begin:end] = rounded
            if end < stop:
                weight[end:stop] -= run[begin - start : end - start, end - start :].T @ error
        return errors

    propagate_runs(weight, factor, blocks, round_run)


RoundRun = Callable[[int, int], Floats]
"""(number of a run's first block, of the one behind its last) -> float32 (columns of the run, rows)."""


def propagate_runs(weight: Floats, factor: Matrix, blocks: Sequence[tuple[int, int]], round_run: RoundRun) -> None:
    """propagate, but `round_run` rounds the columns of a run of blocks, corrects those of the same run, and returns
    the errors e of e U_block = difference."""
    left = beside(weight, factor)
    for first, at in _runs(blocks):
        start, stop = blocks[first][0], blocks[at - 1][1]
        if left is not weight:
            weight[start:stop] = on_host(left[start:stop])
        errors = round_run(first, at)
        if stop < len(weight):
            left[stop:] -= factor[start:stop, stop:].T @ beside(errors, factor)


def refine(
    weight: Floats,
    values: Floats,
    h: Matrix,
    blocks: Sequence[tuple[int, int]],
    quantise: Quantise,
    sweeps: int = SWEEPS,
) -> None:
    """Rounds every block of columns again, for the errors of all others as they are now, in `sweeps` rounds:
    coordinate descent from what `propagate` found (QuantEase: Behdin et al. 2023, arXiv:2309.01885, section 3). It
    takes 7 % of D H D^T, whichever the code (SmolLM2-135M; the first round 4.5 %).

    weight: float32 (columns, rows) as they were before `propagate`; values: as it left them, overwritten; h:
    Ordered.damped; blocks, quantise: as propagate's."""
    runs = squares_of_runs(h, blocks)
    inner = [
        runs[first][a - blocks[first][0] : b - blocks[first][0], a - blocks[first][0] : b - blocks[first][0]]
        for first, at in _runs(blocks)
        for a, b in blocks[first:at]
    ]
    inner = [own.astype(np.float64) for own in inner]
    inverses = [_single(np.linalg.inv(own)) if len(own) > 1 else None for own in inner]
    factors = [_inverse_upper(own) if len(own) > 1 else _single(own**-0.5) for own in inner]

    def round_run(first: int, at: int, slopes: Floats) -> Floats:
        start, stop = blocks[first][0], blocks[at - 1][1]
        changes = np.empty((stop - start, weight.shape[1]), np.float32)
        run = runs[first]
        for number in range(first, at):
            begin, end = blocks[number]
            inverse, block, own = inverses[number], values[begin:end], slice(begin - start, end - start)
            step = slopes[own] / run[own, own] if inverse is None else inverse @ slopes[own]
            rounded = quantise(number, block + step, factors[number])
            np.subtract(rounded, block, out=changes[own])
            block[:] = rounded
            slopes -= run[:, own] @ changes[own]
        return changes

    refine_runs(h @ beside(weight - values, h), h, blocks, round_run, sweeps)


RefineRun = Callable[[int, int, Floats], Floats]
"""(number of a run's first block, of the one behind its last, the run's slopes) -> float32 (columns of the run,
rows)."""


def refine_runs(
    slopes: Matrix, h: Matrix, blocks: Sequence[tuple[int, int]], round_run: RefineRun, sweeps: int
) -> None:
    """refine, but `round_run` rounds the columns of a run of blocks again, keeps the run's own slopes up to date, and
    returns the changes. slopes: h @ (weight - values), float32 (columns, rows), overwritten."""
    for first, at in [*_runs(blocks)] * sweeps:
        start, stop = blocks[first][0], blocks[at - 1][1]
        own = slopes[start:stop]
        moved = on_host(own)
        changes = beside(round_run(first, at, moved), h)
        if moved is not own:
            own[:] = beside(moved, h)
        slopes[:start] -= h[:start, start:stop] @ changes
        slopes[stop:] -= h[stop:, start:stop] @ changes


def squares_of_runs(matrix: Matrix, blocks: Sequence[tuple[int, int]]) -> dict[int, Floats]:
    """Of every run, by the number of its first block: what a matrix (columns, columns) has where its own columns meet,
    float32. Of a tensor all of them come over at once: one wait for the GPU instead of one for each."""
    ends = {first: (blocks[first][0], blocks[at - 1][1]) for first, at in _runs(blocks)}
    squares = {first: matrix[start:stop, start:stop] for first, (start, stop) in ends.items()}
    if isinstance(matrix, np.ndarray):
        return squares
    import torch

    whole = on_host(torch.cat([square.reshape(-1) for square in squares.values()]))
    pieces = np.split(whole, np.cumsum([square.numel() for square in squares.values()])[:-1])
    return {first: piece.reshape(squares[first].shape) for first, piece in zip(squares, pieces, strict=True)}


def _runs(blocks: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(first, end) of blocks of about _LAZY columns together."""
    at = 0
    while at < len(blocks):
        first, start = at, blocks[at][0]
        while at < len(blocks) and blocks[at][1] - start <= max(_LAZY, blocks[first][1] - start):
            at += 1
        yield first, at


def importance(factor: Matrix) -> Floats:
    """1 / U[j, j]^2, float32 (n,): the loss of a unit error in each column once the later ones have made up for it."""
    return np.square(np.reciprocal(on_host(factor.diagonal())))


def by_rows(work: Floats, order: NDArray[np.intp]) -> Floats:
    """(columns in the order of rounding, rows) as (rows, columns)."""
    values = np.empty((work.shape[1], len(order)), np.float32)
    values[:, order] = work.T
    return values


def row_errors(difference: Floats, hessian: Matrix) -> Floats:
    """D H D^T of every row, float32 (rows,): the mean squared error of that output. difference: float32 (rows,
    columns)."""
    errors: Floats = np.einsum("rc,rc->r", times(difference, hessian), difference)
    return errors


def refined_share(refined: Floats, propagated: Floats) -> np.float32:
    """What `refine` leaves of the errors of a few rows. For one matrix it is nearly the same with every code of a kind,
    so that a trial refines with one of them. refined, propagated: row_errors with and without it."""
    return np.float32(refined.sum(dtype=np.float64) / max(float(propagated.sum(dtype=np.float64)), 1e-30))


def row_gains(weight: Floats, coded: Floats, answers: Floats) -> Floats:
    """What to multiply coded rows by, float32 (rows,), so that they answer to the inputs as strongly as the weights do:
    W H W^T / (W H W'^T). answers: W H, float32 (rows, columns).

    The codes of least squared error are too small by the share of their error: what stands for many values is their
    mean. That is best for one matrix by itself, but all matrices answer too weakly then, which adds up over the layers
    where other errors average out. wiki-6m, calibrated, on text held out: affine-3bit loses 0.129 nats instead of
    0.137, vptq-2bit 0.473 instead of 0.503."""
    own = np.einsum("rc,rc->r", answers, weight)
    theirs = np.einsum("rc,rc->r", answers, coded)
    gains = np.divide(own, theirs, out=np.ones_like(own), where=theirs > 0.5 * own)
    limited: Floats = np.clip(gains, 1.0, _MOST_GAIN)
    return limited
