"""The inner loop of error propagation to an affine grid, in the C library (runtime/search/affine_round.c)."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.native.library import check, declared

Floats = NDArray[np.float32]
MOST_RUN = 64


class _Run(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_size_t),
        ("columns", ctypes.c_uint32),
        *((name, ctypes.c_void_p) for name in ("weights", "slopes", "codes", "changes", "matrix")),
        ("stride", ctypes.c_size_t),
        *((name, ctypes.c_void_p) for name in ("grids", "steps", "offsets", "inverse", "lows", "highs")),
    )


@functools.cache
def _library() -> ctypes.CDLL:
    return declared({"mb_affine_round_run": [ctypes.POINTER(_Run)]})


@dataclass(frozen=True)
class AffineGrids:
    """What columns are rounded to: w = step * code + offset, code low..high. at: uint32 (columns,), in the order of
    rounding, which row of steps, offsets and inverse (1 / step, or 0), float32 (any, rows), is of the column; lows,
    highs: float32 (rows,)."""

    at: NDArray[np.uint32]
    steps: Floats
    offsets: Floats
    inverse: Floats
    lows: Floats
    highs: Floats


def round_run(
    weights: Floats, slopes: Floats | None, matrix: Floats, begin: int, grids: AffineGrids, codes: Floats
) -> Floats:
    """Rounds neighbouring columns one after the other, each for the errors of those before it, or, with slopes, for the
    errors of all (search.h has it in full). Returns the errors, or the changes: float32 (run, rows).

    weights, codes: float32 (run, rows), parts of larger arrays; overwritten. slopes: the same, of refining. matrix:
    float32 (columns, columns), the factor, or the Hessian when refining; begin: number of the run's first column in it.
    Other threads of Python run meanwhile. ValueError for shapes that do not belong together."""
    columns, rows = weights.shape
    arrays = [weights, codes, matrix, grids.steps, grids.offsets, grids.inverse, grids.lows, grids.highs]
    arrays += [] if slopes is None else [slopes]
    whole = all(each.dtype == np.float32 and each.flags.c_contiguous for each in arrays)
    same = codes.shape == weights.shape and (slopes is None or slopes.shape == weights.shape)
    grid_rows = {len(grids.lows), len(grids.highs), *(each.shape[1] for each in arrays[3:6])}
    inside = begin + columns <= min(len(grids.at), *matrix.shape)
    if not (whole and same and grid_rows == {rows} and inside and grids.at.dtype == np.uint32):
        raise ValueError(f"a run of {columns} columns and {rows} rows does not go with its grids or matrix")
    changes = np.empty_like(weights)
    own = np.ascontiguousarray(grids.at[begin : begin + columns])
    if own.max(initial=0) >= min(len(each) for each in arrays[3:6]):
        raise ValueError("a column's grid is missing")
    stride = matrix.shape[1]
    pointer = [each.ctypes.data for each in (grids.steps, grids.offsets, grids.inverse, grids.lows, grids.highs)]
    run = _Run(
        rows,
        columns,
        weights.ctypes.data,
        None if slopes is None else slopes.ctypes.data,
        codes.ctypes.data,
        changes.ctypes.data,
        matrix.ctypes.data + 4 * begin * (stride + 1),
        stride,
        own.ctypes.data,
        *pointer,
    )
    check(_library().mb_affine_round_run(ctypes.byref(run)))
    return changes
