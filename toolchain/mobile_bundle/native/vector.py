"""The search of VPTQ's encoder in the C library (runtime/search/vector_search.c)."""

from __future__ import annotations

import ctypes
import functools

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.native.library import check, declared

Floats = NDArray[np.float32]


@functools.cache
def _library() -> ctypes.CDLL:
    pointer, u32, size = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_size_t
    return declared({"mb_vector_nearest": [pointer, size, u32, pointer, pointer, u32, u32, pointer]})


def _half_norms(centroids: Floats) -> Floats:
    """|centroid|^2 / 2, summed in float64 in order of the coordinates: NumPy's own sums differ with the processor."""
    total = np.zeros(len(centroids))
    for coordinate in centroids.T:
        total += coordinate.astype(np.float64) ** 2
    return (total / 2).astype(np.float32)


def nearest(
    points: Floats, centroids: Floats, threads: int = 1, half_norms: Floats | None = None
) -> NDArray[np.uint32]:
    """The nearest centroid of every point, uint32 (n,); of equally near ones the first.

    points: float32 (n, length); centroids: float32 (k, length), k up to 65,536, length up to 32. The result is the same
    for any number of threads and on every processor. Other threads of Python run meanwhile.

    half_norms: float32 (k,). What is minimised is half_norms[c] - points[n] . centroids[c]; left out, half_norms is
    |centroid|^2 / 2 and that is the squared distance, but for a constant. With weights h of the coordinates it is
    given centroids * h and sum(h * centroids**2) / 2.

    ValueError for shapes that do not belong together or values that are not finite; UserError without memory."""
    points = np.ascontiguousarray(points, np.float32)
    centroids = np.ascontiguousarray(centroids, np.float32)
    if half_norms is None:
        half_norms = _half_norms(centroids)
    half_norms = np.ascontiguousarray(half_norms, np.float32)
    if points.ndim != 2 or centroids.ndim != 2 or points.shape[1] != centroids.shape[1]:
        raise ValueError(f"points {points.shape} and centroids {centroids.shape} have not the same length")
    entries, length = centroids.shape
    if half_norms.shape != (entries,):
        raise ValueError(f"{half_norms.shape} half norms of {entries} centroids")
    if not (np.isfinite(points).all() and np.isfinite(centroids).all() and np.isfinite(half_norms).all()):
        raise ValueError("the points or centroids hold NaN or infinite values")
    index = np.empty(len(points), np.uint32)
    arrays = points.ctypes.data, centroids.ctypes.data, half_norms.ctypes.data
    check(
        _library().mb_vector_nearest(
            arrays[0], len(points), length, arrays[1], arrays[2], entries, threads, index.ctypes.data
        )
    )
    return index
