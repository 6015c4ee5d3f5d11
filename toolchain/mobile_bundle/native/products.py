"""Sums of products in bfloat16 by the C library (runtime/search/products_bf16.c)."""

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
    arguments = [pointer, pointer, size, u32, u32, u32, pointer]
    return declared(
        {"mb_bf16_products": arguments, "mb_bf16_products_supported": []}, {"mb_bf16_products_supported": u32}
    )


@functools.cache
def has_bf16_products() -> bool:
    """Whether this processor has units for them: twice as fast as float32."""
    return bool(_library().mb_bf16_products_supported())


def bf16_products(a: Floats, b: Floats, upper: bool = False) -> Floats:
    """a.T @ b with factors rounded to bfloat16 and sums in float32: float32 (columns of a, columns of b).

    a, b: float32 (tokens, columns). upper: what is left of the diagonal is not computed, and may be anything. Other
    threads of Python run meanwhile. ValueError for shapes that do not belong together; UserError without memory, or on
    a processor without `has_bf16_products`."""
    a, b = np.ascontiguousarray(a, np.float32), np.ascontiguousarray(b, np.float32)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise ValueError(f"no products of {a.shape} and {b.shape}")
    sums = np.zeros((a.shape[1], b.shape[1]), np.float32)
    given = a.ctypes.data, b.ctypes.data, len(a), a.shape[1], b.shape[1]
    check(_library().mb_bf16_products(*given, upper, sums.ctypes.data))
    return sums
