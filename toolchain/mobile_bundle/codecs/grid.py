"""Affine codes that are known already: a quantised file's own codes and scales, carried over without rounding again.

The codec asks the source for them, and proves for every chunk of rows that what it writes decodes to the source's
values, bit for bit in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.affine import AffineCodec
from mobile_bundle.codecs.blob import Blob, BlobHeader
from mobile_bundle.codecs.codec import Encoded, Write, sum_squares
from mobile_bundle.codecs.source import Floats, MatrixSource, chunk_rows
from mobile_bundle.codecs.stats import Stats

PREFIX = "kept-"
"""Before the name of an affine codec: the same format, with codes that the source knows."""


@dataclass(frozen=True)
class Grid:
    """Rows on a grid: w = d * code (+ m). codes: float32 (n, columns), whole numbers; d, m: float16 (n, groups)."""

    codes: Floats
    d: NDArray[np.float16]
    m: NDArray[np.float16] | None


@runtime_checkable
class GridSource(MatrixSource, Protocol):
    """A matrix source that knows codes and scales of its values."""

    def grids(self, chunk_rows: int) -> Iterator[Grid]:
        """As `chunks`, the same rows. ValueError if they are not on the grid after all."""
        ...


class KeptAffineCodec(AffineCodec):
    """An affine format whose codes come from the source; the header's scale is 1, so d and m are stored as they are."""

    calibrated = False

    def __init__(self, bits: int, group: int, asymmetric: bool) -> None:
        super().__init__(bits, group, asymmetric)
        self._name = PREFIX + self._name

    def encode_stream(self, source: MatrixSource, write: Write, stats: Stats | None = None) -> Encoded:
        """ValueError if the source has no grid, or if a value would not come back as it is."""
        del stats  # nothing is chosen here
        if not isinstance(source, GridSource):
            raise ValueError(f"codec {self.name} carries over codes, and this matrix has none")
        header = self._header(source)
        write(header.pack())
        low, high = self._range
        step = chunk_rows(source.columns)
        total = 0.0
        for grid, chunk in zip(source.grids(step), source.chunks(step), strict=True):
            if grid.codes.min() < low or grid.codes.max() > high:
                raise ValueError(f"it has a code outside {low}..{high}, which format {self.format.name} does not hold")
            m = np.zeros_like(grid.d) if grid.m is None else grid.m
            strips = bytes(self._strips(source.columns, grid.codes, grid.d, m))
            here = BlobHeader(self.format, len(chunk), source.columns, self.group, self.flags)
            decoded = self.decode_rows(Blob(here, strips), 0, len(chunk))
            if not np.array_equal(decoded.view(np.uint32), chunk.view(np.uint32)):
                raise ValueError(f"format {self.format.name} does not hold its values exactly")
            write(strips)
            total += sum_squares(chunk)
        return Encoded(header, 0.0, total)
