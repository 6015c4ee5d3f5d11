"""SeedLM's search in the C library (runtime/search), which NumPy would be too slow for, and the decoders of stored
blobs as `mobile-run install` runs them."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.native.library import check, declared


class _SeedlmTables(ctypes.Structure):
    _fields_ = [
        ("length", ctypes.c_uint32),
        ("coefficients", ctypes.c_uint32),
        ("states", ctypes.c_void_p),
        ("factors", ctypes.c_void_p),
        ("bounds", ctypes.c_void_p),
        ("seeds", ctypes.c_void_p),
        ("smallest", ctypes.c_double),
    ]


@functools.cache
def _library() -> ctypes.CDLL:
    pointer, u32, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    table, text = ctypes.POINTER(_SeedlmTables), ctypes.c_char_p
    return declared({
        "mb_decode_stored": [pointer, u64, pointer, u64, ctypes.POINTER(u64)],
        "mb_seedlm_search": [table, pointer, u64, pointer, pointer, pointer, text, u32, ctypes.POINTER(u64)],
    })  # fmt: skip


def decode_stored(data: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A stored blob (formats from 32 on) to the packed blob that an install makes of it: uint8 (bytes,).

    data: the blob's bytes, header included. UserError says how they are damaged."""
    stored = np.frombuffer(data, np.uint8)
    aligned = np.empty(len(stored) + 64, np.uint8)  # as in a file: a blob starts at a multiple of 64 bytes
    aligned = aligned[-aligned.ctypes.data % 64 :][: len(stored)]
    aligned[:] = stored
    size = ctypes.c_uint64()
    check(_library().mb_decode_stored(aligned.ctypes.data, len(stored), None, 0, ctypes.byref(size)))
    out = np.empty(size.value, np.uint8)
    check(_library().mb_decode_stored(aligned.ctypes.data, len(stored), out.ctypes.data, len(out), ctypes.byref(size)))
    return out


@dataclass(frozen=True)
class Found:
    """What a search found for n blocks. seeds: uint16 (n,); exponents: int8 (n,), -8..7; coefficients: int8 (n, P),
    -8..7; evaluated: seeds that were not ruled out by the bound, over all blocks."""

    seeds: NDArray[np.uint16]
    exponents: NDArray[np.int8]
    coefficients: NDArray[np.int8]
    evaluated: int = 0


@dataclass(frozen=True)
class Tables:
    """mb_seedlm_tables for blocks of `length` weights with `coefficients` coefficients.

    states: float32 (STATES,), state - 32768 round the cycle; seeds: uint16 (PLACES,), 0 where no seed is to be used;
    factors: float64 (PLACES, P * (P + 1) / 2), the inverse of the Cholesky factor of U'U, row by row;
    bounds: float32 (PLACES / 8, P * (P + 1) / 2, 8), factors of eight places together;
    smallest: the smallest singular value of the U in use;
    conditions: float64 (SEEDS,), the condition number of every U."""

    length: int
    coefficients: int
    states: NDArray[np.float32]
    seeds: NDArray[np.uint16]
    factors: NDArray[np.float64]
    bounds: NDArray[np.float32]
    smallest: float
    conditions: NDArray[np.float64]


def search_seedlm(blocks: NDArray[np.float32], table: Tables, threads: int = 1, kernels: str = "auto") -> Found:
    """SeedLM's exact search on the CPU. blocks: float32 (n, table.length), finite, scaled as in
    codecs/seedlm_search.search_reference, whose result this is. kernels: "auto", "avx2" or "scalar".

    UserError for kernels that the processor lacks."""
    blocks = np.ascontiguousarray(blocks, np.float32).reshape(-1, table.length)
    count = len(blocks)
    seeds, exponents = np.empty(count, np.uint16), np.empty(count, np.int8)
    coefficients = np.empty((count, table.coefficients), np.int8)
    pointers = (array.ctypes.data for array in (table.states, table.factors, table.bounds, table.seeds))
    structure = _SeedlmTables(table.length, table.coefficients, *pointers, table.smallest)
    evaluated = ctypes.c_uint64()
    check(
        _library().mb_seedlm_search(
            ctypes.byref(structure),
            blocks.ctypes.data,
            count,
            seeds.ctypes.data,
            exponents.ctypes.data,
            coefficients.ctypes.data,
            kernels.encode(),
            threads,
            ctypes.byref(evaluated),
        )
    )
    return Found(seeds, exponents, coefficients, evaluated.value)
