"""Uncompressed: bfloat16 for matrices (`raw`, the baseline of every comparison) and float32 for vectors (`f32`).

Layout: row-major, no padding. bfloat16 is float32 without its low 16 bits, rounded to nearest, ties to even; a finite
value never becomes infinite (it stops at the largest bfloat16).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.blob import Blob, BlobHeader
from mobile_bundle.codecs.codec import Encoded, StreamCodec, Write, source_chunks, sum_squares
from mobile_bundle.codecs.declaration import Declaration, FormatRules
from mobile_bundle.codecs.formats import Format
from mobile_bundle.codecs.source import MatrixSource
from mobile_bundle.codecs.stats import Stats


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 (finite) to the bits of bfloat16, same shape."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    out = rounded.astype(np.uint16)
    overflow = (out & 0x7FFF) >= 0x7F80
    if overflow.any():
        out[overflow] -= 1
    return out


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The bits of bfloat16 to float32, same shape, exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


class RawCodec(StreamCodec):
    """bfloat16. Lossless for a bf16 checkpoint."""

    format = Format.BF16
    name = "raw"
    activation_group = None

    def encode_stream(self, source: MatrixSource, write: Write, stats: Stats | None = None) -> Encoded:
        del stats  # rounding alone
        header = self._header(source)
        write(header.pack())
        error = total = 0.0
        for chunk in source_chunks(source):
            bits = to_bfloat16(chunk)
            write(bits.astype("<u2", copy=False).data.cast("B"))
            total += sum_squares(chunk)
            error += sum_squares(from_bfloat16(bits) - chunk)
        return Encoded(header, error, total)

    def trained_ternary(self) -> RawCodec:
        return self

    def decode_rows(self, blob: Blob, begin: int, end: int) -> NDArray[np.float32]:
        bits = np.frombuffer(blob.payload, "<u2").reshape(blob.header.rows, blob.header.columns)
        return from_bfloat16(bits[begin:end])


class Float32Codec(StreamCodec):
    """float32: norms, biases, tables."""

    format = Format.F32
    name = "f32"
    activation_group = None

    def encode_stream(self, source: MatrixSource, write: Write, stats: Stats | None = None) -> Encoded:
        del stats  # rounding alone
        header = self._header(source)
        write(header.pack())
        total = 0.0
        for chunk in source_chunks(source):
            write(np.ascontiguousarray(chunk, "<f4").data.cast("B"))
            total += sum_squares(chunk)
        return Encoded(header, 0.0, total)

    def decode_rows(self, blob: Blob, begin: int, end: int) -> NDArray[np.float32]:
        values = np.frombuffer(blob.payload, "<f4").reshape(blob.header.rows, blob.header.columns)
        return values[begin:end].astype(np.float32)


def is_float_vector(header: BlobHeader) -> bool:
    """Whether the blob is a vector, float32 (1, columns), as norms, biases and tables are stored."""
    return header.format is Format.F32 and header.rows == 1


DECLARATION = Declaration(
    formats=(
        FormatRules(
            Format.BF16,
            payload_bytes=lambda rows, columns, group, flags: 2 * rows * columns,
            decoder=lambda header: RawCodec(),
            decode_cost=9.0,
            operator=True,
        ),
        FormatRules(
            Format.F32,
            payload_bytes=lambda rows, columns, group, flags: 4 * rows * columns,
            decoder=lambda header: Float32Codec(),
            matrix=False,
        ),
    ),
    codecs=(RawCodec(), Float32Codec()),
    recipes={"raw": "raw"},
)
