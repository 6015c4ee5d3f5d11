"""Signs, one bit per weight, and one fp16 scale d per row and group of columns: w = scale * d * (1 or -1).

`scale` is a power of two, as of the affine codes. d is the mean magnitude of the group, which minimises the squared
error (Rastegari et al. 2016, arXiv:1603.05279, section 3.1); where all magnitudes are the same it is that one exactly,
so a binary matrix is stored without loss. Zero counts as positive.

Layout (MB_FORMAT_SIGN1): strips of 16 rows; per strip one record per group of columns: 16 d, then per 8 columns 16
bytes: byte r, bit c: column c of row r. Columns are padded to the group with bit 0, rows to 16 with bit 0 and d = 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.affine import GROUPS, power_of_two_scale, strip_size
from mobile_bundle.codecs.blob import STRIP_ROWS, Blob, round_up
from mobile_bundle.codecs.codec import (
    Encoded,
    StreamCodec,
    Write,
    largest_magnitude,
    pad_rows,
    source_chunks,
    sum_squares,
)
from mobile_bundle.codecs.declaration import Declaration, FormatRules
from mobile_bundle.codecs.formats import Format
from mobile_bundle.codecs.source import Floats, MatrixSource
from mobile_bundle.codecs.stats import Stats


class SignCodec(StreamCodec):
    """group: 32, 64 or 128 columns that share a scale. ValueError for another."""

    format = Format.SIGN1

    def __init__(self, group: int = 128) -> None:
        if group not in GROUPS:
            raise ValueError(f"no layout of signs in groups of {group}")
        self.group = group

    @property
    def name(self) -> str:
        return "sign-1bit" if self.group == 128 else f"sign-1bit-g{self.group}"

    def encode_stream(self, source: MatrixSource, write: Write, stats: Stats | None = None) -> Encoded:
        del stats  # rounding alone
        scale = power_of_two_scale(largest_magnitude(source))
        header = self._header(source, scale)
        write(header.pack())
        starts = np.arange(0, source.columns, self.group)
        counts = np.diff(np.append(starts, source.columns)).astype(np.float32)
        error = total = 0.0
        for chunk in source_chunks(source):
            w = chunk * np.float32(1.0 / scale)  # exact: a power of two
            total += sum_squares(w)
            magnitude = np.abs(w)
            top = np.maximum.reduceat(magnitude, starts, axis=1)
            same = top == np.minimum.reduceat(magnitude, starts, axis=1)
            mean = np.add.reduceat(magnitude, starts, axis=1) / counts
            d = np.where(same, top, mean).astype(np.float16)
            write(self._strips(w >= 0, d))
            stored = np.repeat(d.astype(np.float32), self.group, axis=1)[:, : source.columns]
            magnitude -= stored
            error += sum_squares(magnitude)
        return Encoded(header, error * scale * scale, total * scale * scale)

    def pack_rows(self, codes: Floats, d: NDArray[np.float16], m: NDArray[np.float16] | None) -> memoryview:
        """Whole strips of rows whose signs are known. codes: 1 or -1, float32 (rows, columns); d: float16 (rows,
        groups); m: None."""
        if m is not None or not (np.abs(codes) == 1).all():
            raise ValueError("it has a code that is no sign")
        return self._strips(codes > 0, d)

    def _strips(self, positive: NDArray[np.bool_], d: NDArray[np.float16]) -> memoryview:
        """Whole strips as they are stored. positive: bool (rows, columns); d: float16 (rows, groups)."""
        count, groups = d.shape
        padded = np.zeros((pad_rows(count), groups), "<f2")
        padded[:count] = d
        bits = np.zeros((len(padded), groups * self.group), bool)
        bits[:count, : positive.shape[1]] = positive
        strips = np.empty((len(padded) // STRIP_ROWS, groups), self._record())
        strips["d"] = padded.reshape(-1, STRIP_ROWS, groups).transpose(0, 2, 1)
        packed = np.packbits(bits, axis=1, bitorder="little").reshape(-1, STRIP_ROWS, groups, self.group // 8)
        strips["bits"] = packed.transpose(0, 2, 3, 1)
        return strips.view(np.uint8).data.cast("B")

    def holds(self, w: Floats) -> bool:
        """Whether the signs give rows of a matrix exactly. w: float32 (n, columns), in fp16's range already."""
        magnitude = np.abs(w)
        starts = np.arange(0, w.shape[1], self.group)
        top = np.maximum.reduceat(magnitude, starts, axis=1)
        same = top == np.minimum.reduceat(magnitude, starts, axis=1)
        return bool(same.all() and (top == top.astype(np.float16)).all())

    def decode_rows(self, blob: Blob, begin: int, end: int) -> NDArray[np.float32]:
        header = blob.header
        if header.group != self.group:
            raise ValueError(f"codec {self.name} does not read groups of {header.group}")
        groups = round_up(header.columns, self.group) // self.group
        strips = np.frombuffer(blob.payload, self._record()).reshape(-1, groups)
        strips = strips[begin // STRIP_ROWS : (end + STRIP_ROWS - 1) // STRIP_ROWS]
        packed = np.ascontiguousarray(strips["bits"].transpose(0, 3, 1, 2)).reshape(-1, groups, self.group // 8)
        values = np.unpackbits(packed, axis=2, bitorder="little").astype(np.float32)
        values += values
        values -= np.float32(1.0)
        values *= strips["d"].transpose(0, 2, 1).reshape(-1, groups, 1).astype(np.float32)
        values *= np.float32(header.scale)
        return np.ascontiguousarray(values.reshape(len(values), -1)[: end - begin, : header.columns])

    def _record(self) -> np.dtype[np.void]:
        """One strip's record of one group of columns."""
        return np.dtype([("d", "<f2", (STRIP_ROWS,)), ("bits", "u1", (self.group // 8, STRIP_ROWS))])


DECLARATION = Declaration(
    formats=(
        FormatRules(
            Format.SIGN1,
            payload_bytes=strip_size(1),
            decoder=lambda header: SignCodec(header.group),
            decode_cost=0.4,
            groups=GROUPS,
            operator=True,
        ),
    ),
    codecs=(SignCodec(128), SignCodec(64), SignCodec(32)),
)
