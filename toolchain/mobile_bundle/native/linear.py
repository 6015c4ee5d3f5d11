"""One packed weight at a time in the C library (runtime/include/mobile_bundle/linear.h)."""

from __future__ import annotations

import ctypes
import functools

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.native.library import check, declared

Floats = NDArray[np.float32]
Blob = NDArray[np.uint8]


@functools.cache
def _library() -> ctypes.CDLL:
    pointer, u32, u64, size = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_size_t
    return declared({
        "mb_linear": [pointer, u64, pointer, size, u32, pointer, u32],
        "mb_embedding": [pointer, u64, pointer, size, pointer, u32],
    })  # fmt: skip


def linear(blob: Blob, x: Floats, rows: int) -> Floats:
    """W x for every vector: float32 (count, rows), bit for bit what the engine computes, in this thread.

    blob: uint8 (bytes,), contiguous, aligned to 4 bytes; x: float32 (count, columns), contiguous. UserError for a blob
    that is not valid or not of rows x columns."""
    count, columns = x.shape
    y = np.empty((count, rows), np.float32)
    check(
        _library().mb_linear(blob.ctypes.data, blob.nbytes, x.ctypes.data, count, columns, y.ctypes.data, rows),
    )
    return y


def embedding(blob: Blob, indices: NDArray[np.int64], columns: int) -> Floats:
    """Rows of W: float32 (count, columns). blob as in `linear`; indices: int64 (count,), contiguous.

    UserError also for an index that is no row."""
    out = np.empty((len(indices), columns), np.float32)
    check(
        _library().mb_embedding(
            blob.ctypes.data, blob.nbytes, indices.ctypes.data, len(indices), out.ctypes.data, columns
        )
    )
    return out
