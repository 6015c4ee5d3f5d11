"""Ternary weights, 2 bits each: T2-R16 (MB_FORMAT_TERNARY2). w = s * t, t in {-1, 0, 1}, stored as code t + 1.

Layout: strips of 16 rows, per 16 columns one 64-byte block: byte 4*r + k, bits 2f..2f+1 = code of column 4*f + k.
Padding has code 1. The scale is the header's, or float32 per row after the last strip (MB_FLAG_ROW_SCALES).

How weights are rounded: ternary.py.
"""

from __future__ import annotations

import numpy as np

from mobile_bundle.codecs.blob import FLAG_ROW_SCALES, STRIP_ROWS, Blob, BlobHeader, round_up
from mobile_bundle.codecs.codec import pad_rows
from mobile_bundle.codecs.declaration import Declaration, FormatRules
from mobile_bundle.codecs.formats import Format
from mobile_bundle.codecs.interleave import from_strips, pack_words, to_strips, unpack_words
from mobile_bundle.codecs.source import Floats
from mobile_bundle.codecs.ternary import TernaryCodec

BLOCK_COLUMNS = 16


class BitnetCodec(TernaryCodec):
    """row_scales: one scale per row (mean|w| of the row, or its exact value) instead of one per tensor."""

    format = Format.TERNARY2

    @property
    def name(self) -> str:
        return "bitnet-row" if self.row_scales else "bitnet"

    def _pack(self, ternary: Floats) -> memoryview:
        count, columns = ternary.shape
        codes = np.ones((pad_rows(count), round_up(columns, BLOCK_COLUMNS)), np.uint8)
        codes[:count, :columns] = (ternary + np.float32(1.0)).astype(np.uint8)
        words = pack_words(codes, 2)  # (rows, blocks): one word per row and block
        return np.ascontiguousarray(to_strips(words[:, :, None])).data.cast("B")

    def _unpack(self, blob: Blob, begin: int, end: int) -> Floats:
        blocks = round_up(blob.header.columns, BLOCK_COLUMNS) // BLOCK_COLUMNS
        strips = pad_rows(blob.header.rows) // STRIP_ROWS
        words = np.frombuffer(blob.payload, "<u4", strips * blocks * STRIP_ROWS).reshape(strips, blocks, 1, STRIP_ROWS)
        first, last = begin // STRIP_ROWS, (end + STRIP_ROWS - 1) // STRIP_ROWS
        codes = unpack_words(from_strips(words[first:last])[:, :, 0], 2)  # (rows, blocks * 16)
        values = codes[: end - begin, : blob.header.columns].astype(np.float32)
        values -= np.float32(1.0)
        return values

    def _scales_at(self, header: BlobHeader) -> tuple[int, int]:
        return _code_bytes(header.rows, header.columns), pad_rows(header.rows)


def _code_bytes(rows: int, columns: int) -> int:
    return pad_rows(rows) * round_up(columns, BLOCK_COLUMNS) // 4


def _payload_bytes(rows: int, columns: int, group: int, flags: int) -> int:
    del group
    return _code_bytes(rows, columns) + (4 * pad_rows(rows) if flags & FLAG_ROW_SCALES else 0)


DECLARATION = Declaration(
    formats=(
        FormatRules(
            Format.TERNARY2,
            payload_bytes=_payload_bytes,
            decoder=lambda header: BitnetCodec(bool(header.flags & FLAG_ROW_SCALES)),
            decode_cost=0.5,
            flags=FLAG_ROW_SCALES,
            operator=True,
        ),
    ),
    codecs=(BitnetCodec(), BitnetCodec(row_scales=True)),
    recipes={"bitnet": "affine-4bit"},
)
