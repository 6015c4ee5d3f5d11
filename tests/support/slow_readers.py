"""Readers of packed_formats.h that go one weight at a time."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def slow_sparse(rows: int, columns: int, flags: int, scale: float, payload: bytes) -> Floats:
    """One weight at a time, straight from the text of packed_formats.h; checks padding and the negation counts."""
    out = np.empty((rows, columns), np.float32)
    strips, padded = -(-rows // 32), -(-columns // 32) * 32
    codes_bytes = strips * (-(-padded // 1600) * 128 + padded // 32 * 160)
    assert len(payload) == codes_bytes + (128 * strips if flags & 2 else 0)
    at = 0
    for tile in range(0, padded, 1600):
        width = min(1600, padded - tile)
        for strip in range(strips):
            for r in range(32):
                row = 32 * strip + r
                s = struct.unpack_from("<f", payload, codes_bytes + 4 * row)[0] if flags & 2 else scale
                assert row < rows or not flags & 2 or s == 0
                negations = 0
                for group in range(width // 4):
                    block = at + 128 + 160 * (group // 8)
                    g = group % 8
                    nibble = payload[block + 32 * (g // 2) + r] >> 4 * (g % 2) & 15
                    negated = payload[block + 128 + r] >> (7 - g) & 1
                    negations += negated
                    first = -1 if negated else 1
                    t = [first, -first if nibble & 4 else first, -first if nibble & 8 else first]
                    t.insert(nibble & 3, 0)
                    if row >= rows or tile + 4 * group >= columns:
                        assert (nibble, negated) == (0, 0)
                    for c in range(4):
                        column = tile + 4 * group + c
                        if row < rows and column < columns:
                            out[row, column] = np.float32(s) * np.float32(t[c])
                assert struct.unpack_from("<i", payload, at + 4 * r)[0] == negations
            at += 128 + width // 32 * 160
    assert at == codes_bytes
    return out
