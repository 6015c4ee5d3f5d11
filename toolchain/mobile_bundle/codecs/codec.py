"""What every codec offers, and the part they share: streaming.

A codec writes a blob strip by strip from a source that is read in chunks, so the RAM it takes does not depend on the
matrix. `encode` and `decode` on whole arrays are the same code over an array in RAM.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.blob import HEADER_BYTES, STRIP_ROWS, Blob, BlobHeader, payload_bytes
from mobile_bundle.codecs.declaration import FormatRules, rules_of
from mobile_bundle.codecs.formats import BlobError, Format
from mobile_bundle.codecs.shared_codebook import Codebook
from mobile_bundle.codecs.source import ArraySource, Floats, MatrixSource, chunk_rows
from mobile_bundle.codecs.stats import Stats

Write = Callable[[bytes | memoryview], Any]


@dataclass(frozen=True)
class Encoded:
    """What encoding found out: the header, and the sums of (w - w')**2 and w**2 over the matrix (float64)."""

    header: BlobHeader
    squared_error: float
    squared_weight: float

    @property
    def relative_error(self) -> float:
        """||W - W'||**2 / ||W||**2; 0 for a matrix of zeros."""
        return self.squared_error / self.squared_weight if self.squared_weight > 0 else 0.0


class StreamCodec(ABC):
    """The interface that planner and container lean on. A blob is made in one forward pass, after at most one more for
    the header's scale.

    format, group, flags: of the headers it writes."""

    format: Format
    group: int = 0
    flags: int = 0
    calibrated: bool = False
    """Whether `encode_stream` has a use for stats."""
    carries_codes: bool = False
    """Whether it keeps the codes that the source has, instead of choosing some."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name it is registered by."""

    @property
    def lookup(self) -> str:
        """The name by which another process finds this very codec: `name`, unless it is stricter than that."""
        return self.name

    @property
    def rules(self) -> FormatRules:
        """What is declared of the format it writes."""
        return rules_of(self.format)

    @property
    def packed(self) -> StreamCodec:
        """The codec whose blobs the engine computes with: itself, but for the entropy stage around another."""
        return self

    @property
    def activation_group(self) -> int | None:
        """Columns of the input that share an int8 scale in the engine; 0: all of a token; None: it multiplies by the
        input as it is."""
        return self.packed.group

    @property
    def shared_codebook(self) -> Codebook | None:
        """The codebook in which its blobs look weights up, where that is a tensor of its own, which the matrices of one
        kind share; else None."""
        return None

    def reading(self, codebook: NDArray[np.int8]) -> StreamCodec:
        """The codec that decodes blobs with this shared codebook, int8 (entries, stride). Itself if it needs none."""
        del codebook
        return self

    def fitted(self, columns: int) -> StreamCodec:
        """The codec that a recipe takes for matrices of so many columns in place of this one: perhaps smaller groups,
        where padding would cost more than they do. It depends on the columns alone, so projections that share an input
        share their group."""
        del columns
        return self

    def trained_ternary(self) -> StreamCodec | None:
        """The codec that keeps the body of a ternary checkpoint exactly where a recipe names this one; None: `bitnet`
        does that."""
        return None

    @abstractmethod
    def encode_stream(self, source: MatrixSource, write: Write, stats: Stats | None = None) -> Encoded:
        """Hands the blob of a matrix, float32 (rows, columns), to `write` piece by piece, header first. ValueError for
        values that are not finite.

        stats: what calibration knows of the matrix's inputs; a codec that has no use for it ignores it."""

    @abstractmethod
    def decode_rows(self, blob: Blob, begin: int, end: int) -> NDArray[np.float32]:
        """Rows begin..end-1 of the matrix, float32 (end - begin, columns); begin a multiple of 16.

        ValueError for a blob of another format, group or flags, and for one whose codebook is another tensor (see
        `reading`); BlobError for damaged contents."""

    def blob_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a blob of that shape, its 64-byte header included."""
        return HEADER_BYTES + payload_bytes(self.format, rows, columns, self.group, self.flags)

    def planned_header(self, rows: int, columns: int) -> BlobHeader:
        """The header that a blob of that shape will have, but for its scale: of the largest size, if that varies."""
        return BlobHeader(self.format, rows, columns, self.group, self.flags)

    def bits_per_weight(self, rows: int, columns: int) -> float:
        """Exact: 8 * bytes of the blob, its 64-byte header included, / (rows * columns)."""
        return 8 * self.blob_bytes(rows, columns) / (rows * columns)

    def encode(self, weight: NDArray[np.float32], stats: Stats | None = None) -> Blob:
        """weight: float32 (rows, columns), coded in RAM."""
        parts: list[bytes] = []
        encoded = self.encode_stream(ArraySource(weight), lambda piece: parts.append(bytes(piece)), stats)
        return Blob(encoded.header, b"".join(parts)[HEADER_BYTES:])

    def decode(self, blob: Blob) -> NDArray[np.float32]:
        """float32 (rows, columns): the reference that the kernels are held to. Errors as decode_rows."""
        out = np.empty((blob.header.rows, blob.header.columns), np.float32)
        begin = 0
        for chunk in self.decode_chunks(blob):
            out[begin : begin + len(chunk)] = chunk
            begin += len(chunk)
        return out

    def decode_chunks(self, blob: Blob) -> Iterator[NDArray[np.float32]]:
        """The matrix in chunks of rows, float32 (n, columns), for matrices too large to decode whole. Errors as
        decode_rows."""
        self._check(blob)
        step = chunk_rows(blob.header.columns)
        for begin in range(0, blob.header.rows, step):
            yield self.decode_rows(blob, begin, min(begin + step, blob.header.rows))

    def _header(self, source: MatrixSource, scale: float = 1.0) -> BlobHeader:
        return replace(StreamCodec.planned_header(self, source.rows, source.columns), scale=scale)

    def _check(self, blob: Blob) -> None:
        if blob.header.format != self.format:
            raise ValueError(f"codec {self.name} does not read format {blob.header.format.name}")


def codec_for(header: BlobHeader) -> StreamCodec:
    """The codec that decodes a blob with this header. BlobError where nothing in Python does."""
    decoder = rules_of(header.format).decoder
    if decoder is None:
        raise BlobError(f"there is no decoder in Python for format {header.format.name}")
    return decoder(header)


def source_chunks(source: MatrixSource) -> Iterator[Floats]:
    """The source in chunks of whole strips (the last may be ragged)."""
    return source.chunks(chunk_rows(source.columns))


def largest_magnitude(source: MatrixSource) -> float:
    """max |w|. ValueError if a value is NaN or infinite."""
    largest = 0.0
    for chunk in source_chunks(source):
        low, high = float(chunk.min()), float(chunk.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("the weights hold NaN or infinite values")
        largest = max(largest, high, -low)
    return largest


def sum_squares(values: NDArray[np.float32]) -> float:
    """Sum of squares; float32 partial sums per row, float64 over rows; float64 alone where those overflow or vanish."""
    flat = values.reshape(-1, values.shape[-1])
    with np.errstate(over="ignore"):
        total = float(np.einsum("rc,rc->r", flat, flat).sum(dtype=np.float64))
    if total == 0.0 or not math.isfinite(total):
        wide = flat.astype(np.float64)
        total = float(np.einsum("rc,rc->", wide, wide))
    return total


def pad_rows(count: int) -> int:
    """Rows rounded up to whole strips."""
    return (count + STRIP_ROWS - 1) // STRIP_ROWS * STRIP_ROWS
