"""Ternary weights in base 3, 1.6 bits each: what `bitnet` stores, five weights in a byte (MB_FORMAT_BASE3).

A stored form: `mobile-run install` decodes it to the very T2-R16 blob that `bitnet` would have written, so it makes a
smaller download of the same model and changes nothing else.

Layout (packed_formats.h): per row ceil(columns / 5) bytes, sum over i of code[5*k + i] * 3^i with code = t + 1; padding
has code 1. The scale is the header's, or float32 per row at the next multiple of 4 bytes (MB_FLAG_ROW_SCALES).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.bitnet import round_ternary, ternary_scales
from mobile_bundle.codecs.blob import FLAG_ROW_SCALES, Blob, BlobError, Format, round_up
from mobile_bundle.codecs.codec import Encoded, StreamCodec, Write, source_chunks, sum_squares
from mobile_bundle.codecs.source import MatrixSource
from mobile_bundle.codecs.stats import Stats

CODES_PER_BYTE = 5
_POWERS = np.array([1, 3, 9, 27, 81], np.uint8)
_CODES = (np.arange(243, dtype=np.uint8)[:, None] // _POWERS % 3).astype(np.float32) - np.float32(1.0)
"""float32 (243, 5): the five weights of every byte."""


class Base3Codec(StreamCodec):
    """row_scales: as BitnetCodec's."""

    format = Format.BASE3

    def __init__(self, row_scales: bool = False) -> None:
        self.row_scales = row_scales
        self.flags = FLAG_ROW_SCALES if row_scales else 0

    @property
    def name(self) -> str:
        return "bitnet-1.6bit-row" if self.row_scales else "bitnet-1.6bit"

    def encode_stream(self, source: MatrixSource, write: Write, stats: Stats | None = None) -> Encoded:
        del stats  # rounding alone
        scales, inverse = ternary_scales(source, self.row_scales)
        header = self._header(source, 1.0 if self.row_scales else float(scales[0]))
        write(header.pack())
        row_bytes = -(-source.columns // CODES_PER_BYTE)
        error = total = 0.0
        begin = 0
        for chunk in source_chunks(source):
            count = len(chunk)
            here = slice(begin, begin + count) if self.row_scales else slice(0, 1)
            ternary = round_ternary(chunk, inverse[here])
            codes = np.ones((count, row_bytes * CODES_PER_BYTE), np.uint8)
            codes[:, : source.columns] = (ternary + np.float32(1.0)).astype(np.uint8)
            digits = codes.reshape(count, row_bytes, CODES_PER_BYTE)
            packed = digits[..., 0].copy()
            for i in range(1, CODES_PER_BYTE):
                packed += digits[..., i] * _POWERS[i]
            write(packed.data.cast("B"))
            ternary *= scales[here, None]
            ternary -= chunk
            error += sum_squares(ternary)
            total += sum_squares(chunk)
            begin += count
        if self.row_scales:
            write(bytes(-source.rows * row_bytes % 4))
            write(scales.astype("<f4", copy=False).data.cast("B"))
        return Encoded(header, error, total)

    def decode_rows(self, blob: Blob, begin: int, end: int) -> NDArray[np.float32]:
        header = blob.header
        row_bytes = -(-header.columns // CODES_PER_BYTE)
        packed = np.frombuffer(blob.payload, np.uint8, (end - begin) * row_bytes, begin * row_bytes)
        if packed.max() >= len(_CODES):
            raise BlobError("base-3 blob holds a byte above 242")
        values = np.ascontiguousarray(_CODES[packed].reshape(end - begin, -1)[:, : header.columns])
        if header.flags & FLAG_ROW_SCALES:
            scales = np.frombuffer(blob.payload, "<f4", offset=round_up(header.rows * row_bytes, 4))
            values *= scales[begin:end, None]
        else:
            values *= np.float32(header.scale)
        return values
