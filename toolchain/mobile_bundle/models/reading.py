"""Checkpoint tensors as our tensors: some of their rows, in another order, with other values, as TensorSpec says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.models.spec import TensorSpec

Floats = NDArray[np.float32]


class Source(Protocol):
    """A matrix in chunks of rows (codecs.MatrixSource)."""

    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    def chunks(self, chunk_rows: int) -> Iterator[Floats]: ...


class Sliced(Protocol):
    """A matrix of which some rows can be read, as models/checkpoint.py's."""

    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    def chunks(self, chunk_rows: int, first: int = 0, last: int | None = None) -> Iterator[Floats]: ...


class Reading:
    """The rows that a TensorSpec asks for, of the tensor that holds them."""

    def __init__(self, held: Sliced, spec: TensorSpec) -> None:
        self.rows, self.columns = spec.rows, spec.columns
        self._held, self._spec = held, spec

    def chunks(self, chunk_rows: int) -> Iterator[Floats]:
        """float32 (n, columns), n = chunk_rows but for the last."""
        spec, first = self._spec, self._spec.first_row
        if spec.taps:
            yield np.concatenate(list(self._held.chunks(self._held.rows))).T.reshape(1, -1)
            return
        if spec.pairs and spec.role != "vector":
            yield from _regrouped(self._heads(), chunk_rows)
        else:
            for chunk in self._held.chunks(chunk_rows, first, first + spec.rows):
                yield self._values(chunk)

    def _heads(self) -> Iterator[Floats]:
        """Head by head, with those rows apart that were rotated as neighbours."""
        spec = self._spec
        for head in self._held.chunks(spec.pairs, spec.first_row, spec.first_row + spec.rows):
            yield self._values(np.concatenate([head[0::2], head[1::2]]))

    def _values(self, chunk: Floats) -> Floats:
        spec = self._spec
        if spec.pairs and spec.role == "vector":
            chunk = chunk.reshape(-1, spec.pairs // 2, 2).transpose(0, 2, 1).reshape(1, -1)
        if spec.plus:
            chunk = chunk + np.float32(spec.plus)
        return chunk * np.float32(spec.times) if spec.times != 1 else chunk


def _regrouped(pieces: Iterator[Floats], chunk_rows: int) -> Iterator[Floats]:
    """The same rows in chunks of chunk_rows."""
    held: list[Floats] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece)
        if count < chunk_rows:
            continue
        rows = np.concatenate(held)
        whole = count // chunk_rows * chunk_rows
        for begin in range(0, whole, chunk_rows):
            yield rows[begin : begin + chunk_rows]
        held, count = [rows[whole:]], count - whole
    if count:
        yield np.concatenate(held)
