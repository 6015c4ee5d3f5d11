"""Where a codec's rows come from: read a few at a time, as often as needed, so that no matrix is in RAM whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.blob import STRIP_ROWS

Floats = NDArray[np.float32]

CHUNK_VALUES = 1 << 18
"""Values of one chunk: 1 MiB of float32, so that a codec's temporaries stay in the second-level cache."""


class MatrixSource(Protocol):
    """A matrix that can be read again and again in chunks of rows."""

    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    def chunks(self, chunk_rows: int) -> Iterator[Floats]:
        """float32 (n, columns), C order, n = chunk_rows but for the last; the caller must not write to them."""
        ...


def chunk_rows(columns: int) -> int:
    """Rows of one chunk: a multiple of 16, at least 16."""
    return max(STRIP_ROWS, CHUNK_VALUES // columns // STRIP_ROWS * STRIP_ROWS)


class ArraySource:
    """A matrix that is in RAM already. weight: float32 (rows, columns), or (columns,) for one row."""

    def __init__(self, weight: NDArray[np.float32]) -> None:
        array = np.ascontiguousarray(weight, dtype=np.float32)
        if array.ndim == 1:
            array = array[None, :]
        if array.ndim != 2 or array.size == 0:
            raise ValueError(f"a weight is a matrix with at least one value, not of shape {array.shape}")
        self._array = array

    @property
    def rows(self) -> int:
        return int(self._array.shape[0])

    @property
    def columns(self) -> int:
        return int(self._array.shape[1])

    def chunks(self, chunk_rows: int) -> Iterator[Floats]:
        for begin in range(0, self.rows, chunk_rows):
            yield self._array[begin : begin + chunk_rows]
