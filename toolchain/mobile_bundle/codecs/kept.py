"""Codes that are known already: a quantised file's own codes and scales, carried over without rounding again.

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
from mobile_bundle.codecs.codec import Encoded, StreamCodec, Write, sum_squares
from mobile_bundle.codecs.sign import SignCodec
from mobile_bundle.codecs.source import Floats, MatrixSource, chunk_rows
from mobile_bundle.codecs.stats import Stats

PREFIX = "kept-"
"""Before the name of a codec: the same format, with codes that the source knows."""


@dataclass(frozen=True)
class Codes:
    """Rows as codes: w = d * code (+ m). codes: float32 (n, columns), whole numbers; d, m: float16 (n, groups)."""

    codes: Floats
    d: NDArray[np.float16]
    m: NDArray[np.float16] | None


@runtime_checkable
class CodedSource(MatrixSource, Protocol):
    """A matrix source that knows codes and scales of its values."""

    def codes(self, chunk_rows: int) -> Iterator[Codes]:
        """As `chunks`, the same rows. ValueError if they are not what the source's type says."""
        ...


class KeptCodec(StreamCodec):
    """An affine or sign format whose codes come from the source. The header's scale is 1, so d and m are stored as they
    are. inner: the codec of that format, which decodes."""

    carries_codes = True

    def __init__(self, inner: AffineCodec | SignCodec) -> None:
        self.inner = inner
        self.format, self.group, self.flags = inner.format, inner.group, inner.flags

    @property
    def name(self) -> str:
        return PREFIX + self.inner.name

    def encode_stream(self, source: MatrixSource, write: Write, stats: Stats | None = None) -> Encoded:
        """ValueError if the source has no codes, or if a value would not come back as it is."""
        del stats  # nothing is chosen here
        if not isinstance(source, CodedSource):
            raise ValueError(f"codec {self.name} keeps the codes of a file, and this matrix has none")
        header = self._header(source)
        write(header.pack())
        step = chunk_rows(source.columns)
        total = 0.0
        for codes, chunk in zip(source.codes(step), source.chunks(step), strict=True):
            strips = bytes(self.inner.pack_rows(codes.codes, codes.d, codes.m))
            here = BlobHeader(self.format, len(chunk), source.columns, self.group, self.flags)
            decoded = self.decode_rows(Blob(here, strips), 0, len(chunk))
            if not np.array_equal(decoded.view(np.uint32), chunk.view(np.uint32)):
                raise ValueError(f"format {self.format.name} does not hold its values exactly")
            write(strips)
            total += sum_squares(chunk)
        return Encoded(header, 0.0, total)

    def decode_rows(self, blob: Blob, begin: int, end: int) -> NDArray[np.float32]:
        return self.inner.decode_rows(blob, begin, end)
