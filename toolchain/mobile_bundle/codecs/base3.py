"""Ternary weights in base 3, 1.6 bits each: what `bitnet` stores, five weights in a byte (MB_FORMAT_BASE3).

A stored form: `mobile-run install` decodes it to the very T2-R16 blob that `bitnet` would have written, so it makes a
smaller download of the same model and changes nothing else.

Layout (packed_formats.h): per row ceil(columns / 5) bytes, sum over i of code[5*k + i] * 3^i with code = t + 1; padding
has code 1. The scale is the header's, or float32 per row at the next multiple of 4 bytes (MB_FLAG_ROW_SCALES).
"""

from __future__ import annotations

import numpy as np

from mobile_bundle.codecs.blob import FLAG_ROW_SCALES, Blob, BlobHeader, round_up
from mobile_bundle.codecs.declaration import Declaration, FormatRules, Installed
from mobile_bundle.codecs.formats import BlobError, Format
from mobile_bundle.codecs.source import Floats
from mobile_bundle.codecs.ternary import TernaryCodec

CODES_PER_BYTE = 5
_POWERS = np.array([1, 3, 9, 27, 81], np.uint8)
_CODES = (np.arange(243, dtype=np.uint8)[:, None] // _POWERS % 3).astype(np.float32) - np.float32(1.0)
"""float32 (243, 5): the five weights of every byte."""


class Base3Codec(TernaryCodec):
    """row_scales: as BitnetCodec's."""

    format = Format.BASE3

    @property
    def name(self) -> str:
        return "bitnet-1.6bit-row" if self.row_scales else "bitnet-1.6bit"

    def _pack(self, ternary: Floats) -> memoryview:
        count, columns = ternary.shape
        row_bytes = -(-columns // CODES_PER_BYTE)
        codes = np.ones((count, row_bytes * CODES_PER_BYTE), np.uint8)
        codes[:, :columns] = (ternary + np.float32(1.0)).astype(np.uint8)
        digits = codes.reshape(count, row_bytes, CODES_PER_BYTE)
        packed = digits[..., 0].copy()
        for i in range(1, CODES_PER_BYTE):
            packed += digits[..., i] * _POWERS[i]
        return packed.data.cast("B")

    def _unpack(self, blob: Blob, begin: int, end: int) -> Floats:
        row_bytes = -(-blob.header.columns // CODES_PER_BYTE)
        packed = np.frombuffer(blob.payload, np.uint8, (end - begin) * row_bytes, begin * row_bytes)
        if packed.max() >= len(_CODES):
            raise BlobError("base-3 blob holds a byte above 242")
        return np.ascontiguousarray(_CODES[packed].reshape(end - begin, -1)[:, : blob.header.columns])

    def _scales_at(self, header: BlobHeader) -> tuple[int, int]:
        return round_up(_code_bytes(header.rows, header.columns), 4), header.rows


def _code_bytes(rows: int, columns: int) -> int:
    return rows * -(-columns // CODES_PER_BYTE)


def _payload_bytes(rows: int, columns: int, group: int, flags: int) -> int:
    del group
    codes = _code_bytes(rows, columns)
    return round_up(codes, 4) + 4 * rows if flags & FLAG_ROW_SCALES else codes


DECLARATION = Declaration(
    formats=(
        FormatRules(
            Format.BASE3,
            payload_bytes=_payload_bytes,
            decoder=lambda header: Base3Codec(bool(header.flags & FLAG_ROW_SCALES)),
            flags=FLAG_ROW_SCALES,
            installed=Installed(Format.TERNARY2, "bitnet", keeps_scale=True),
        ),
    ),
    codecs=(Base3Codec(), Base3Codec(row_scales=True)),
    recipes={"bitnet-1.6bit": "affine-4bit"},
)
