"""The search of the trellis codes' encoder in the C library (runtime/search/trellis_search.c)."""

from __future__ import annotations

import ctypes
import functools

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.native.library import check, declared

Floats = NDArray[np.float32]
CIRCLE = 16
"""Weights of one row whose bits go round in a circle."""


@functools.cache
def _library() -> ctypes.CDLL:
    pointer, u32, size = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_size_t
    return declared({"mb_trellis_search": [u32, pointer, pointer, size, pointer, u32, pointer, pointer]})


def search_trellis(
    bits: float, weights: Floats, steps: Floats, factor: Floats, threads: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """The codes of the least loss, uint8 (n, 16), and the levels they stand for, int8 (n, 16): w = step * level.

    bits: 2, 2.5 or 3. weights: float32 (n, 16), in the order of the circle; steps: float32 (n,). factor: float32
    (16, 16), upper triangular with a positive diagonal: the loss is the sum of squares of e, e @ factor = weights -
    values. Where its diagonal is infinite the weight does not matter. Other threads of Python run meanwhile.

    ValueError for shapes that do not belong together or values that are not finite."""
    codes, levels = search_circles(bits, weights[None], steps, factor[None], threads)
    return codes[0], levels[0]


def search_circles(
    bits: float, weights: Floats, steps: Floats, factors: Floats, threads: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """search_trellis of several circles of the same rows: all arguments and results but the steps have one more
    dimension, (circles, n, 16) or (circles, 16, 16)."""
    weights, steps = np.ascontiguousarray(weights, np.float32), np.ascontiguousarray(steps, np.float32)
    factors = np.ascontiguousarray(factors, np.float32)
    circles, count = weights.shape[:2]
    shapes = weights.shape, steps.shape, factors.shape
    if shapes != ((circles, count, CIRCLE), (count,), (circles, CIRCLE, CIRCLE)):
        raise ValueError(f"weights {weights.shape}, steps {steps.shape} and factor {factors.shape} do not go together")
    if not (np.isfinite(weights).all() and np.isfinite(steps).all()):
        raise ValueError("the weights or steps hold NaN or infinite values")
    codes, levels = np.empty(weights.shape, np.uint8), np.empty(weights.shape, np.int8)
    given, step, factor = weights.ctypes.data, steps.ctypes.data, factors.ctypes.data
    found, level = codes.ctypes.data, levels.ctypes.data
    search, halves = _library().mb_trellis_search, round(2 * bits)
    for number in range(circles):
        at, own = number * count * CIRCLE, factor + 4 * number * CIRCLE * CIRCLE
        check(search(halves, given + 4 * at, step, count, own, threads, found + at, level + at))
    return codes, levels
