"""Trellis codes of 2 and 3 bits (MB_FORMAT_TRELLIS2): a weight's own bits and some of its neighbour's look it up.

Trellis-coded quantisation: Marcellin and Fischer 1990; a table indexed by a window of the stored bits: Tseng et al.
2024, "QTIP" (arXiv:2406.11235), section 3. What differs: the table has 16 entries, which one byte shuffle looks up;
the bits of 16 columns of a row go round in a circle, so that a block is decoded by itself; a scale stands for a group
of columns, as in the affine formats, instead of a rotation of the matrix.

w = scale * d * level, level = T[window] - 16 in -15..15; d: per row and group of columns, fp16 or E4M4 in a byte
(scale_types.py); `scale` as in affine.py, or that by E4M4_UNIT.

With a Hessian blocks of 16 columns are coded one after the other, those with the most energy first; within a block
every way through the trellis carries its own errors (runtime/search/trellis_search.c).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.affine import GROUPS, power_of_two_scale
from mobile_bundle.codecs.blob import FLAG_E4M4, STRIP_ROWS, Blob, BlobHeader, round_up
from mobile_bundle.codecs.chunks import write_coded
from mobile_bundle.codecs.codec import (
    Encoded,
    StreamCodec,
    Write,
    largest_magnitude,
    pad_rows,
    source_chunks,
    sum_squares,
)
from mobile_bundle.codecs.declaration import Declaration, FormatRules, SizeRule, Trial
from mobile_bundle.codecs.formats import Format
from mobile_bundle.codecs.interleave import from_strips, pack_words, to_strips, unpack_words
from mobile_bundle.codecs.propagation import Ordered, refined_share, row_errors
from mobile_bundle.codecs.scale_types import E4M4, E4M4_UNIT, FP16
from mobile_bundle.codecs.source import Floats, MatrixSource
from mobile_bundle.codecs.stats import Stats
from mobile_bundle.codecs.trellis_fit import PLACES, Coded, Codes, Layout, Rounding, block_order, fit, fit_propagated
from mobile_bundle.native.trellis import CIRCLE

_FORMAT = {2: Format.TRELLIS2, 3: Format.TRELLIS3}
_TABLE = {
    2: np.array([5, 12, 1, 9, 12, 18, 8, 15, 17, 24, 14, 20, 24, 31, 21, 27], np.float32) - np.float32(16),
    3: np.array([5, 8, 12, 14, 10, 12, 14, 16, 16, 18, 20, 22, 18, 20, 24, 27], np.float32) - np.float32(16),
}
"""Levels by window, as packed/trellis_layout.h has them."""


class TrellisCodec(StreamCodec):
    """bits 2 or 3; group 32, 64 or 128 columns; e4m4: scales are bytes. name: the short one, for the best setting of so
    many bits.

    ValueError for other bits or groups."""

    calibrated = True

    def __init__(self, bits: int, group: int, e4m4: bool, name: str | None = None) -> None:
        if bits not in _FORMAT or group not in GROUPS:
            raise ValueError(f"no trellis layout of {bits} bits in groups of {group}")
        self.bits = bits
        self.format = _FORMAT[bits]
        self.group = group
        self.e4m4 = e4m4
        self.flags = FLAG_E4M4 if e4m4 else 0
        self.layout = Layout(bits, group, E4M4 if e4m4 else FP16)
        self._short = name is not None
        self._name = name or f"trellis-{bits}bit-g{group}{'-e4m4' if e4m4 else ''}"

    @property
    def name(self) -> str:
        return self._name

    def fitted(self, columns: int) -> TrellisCodec:
        if not self._short:
            return self  # its full name asks for exactly this group
        smaller = [TrellisCodec(self.bits, group, self.e4m4) for group in GROUPS if group < self.group]
        return min([*smaller, self], key=lambda each: each.blob_bytes(1, columns))

    def encode_stream(self, source: MatrixSource, write: Write, stats: Stats | None = None) -> Encoded:
        """With stats.hessian errors are propagated."""
        scale = self.unit(largest_magnitude(source))
        header = self._header(source, scale)
        write(header.pack())
        if stats is not None and stats.hessian is not None:
            rounding = Rounding.of(stats.hessian)

            def code(w: Floats) -> tuple[memoryview, Floats]:
                coded = fit_propagated(stats.target(w), rounding, self.layout)
                return self._strips(coded), coded.values

            return write_coded(source, header, stats.hessian, write, code)
        inverse = np.float32(1.0 / scale)
        error = total = 0.0
        counts = np.ones(source.columns, np.float32)
        for chunk in source_chunks(source):
            w = chunk * inverse
            total += sum_squares(w)
            coded = fit(w, counts, self.layout)
            error += sum_squares(coded.values - w)
            write(self._strips(coded))
        return Encoded(header, error * scale * scale, total * scale * scale)

    def decode_rows(self, blob: Blob, begin: int, end: int) -> NDArray[np.float32]:
        header = blob.header
        if header.group != self.group or header.flags != self.flags:
            raise ValueError(f"codec {self.name} does not read groups of {header.group} with flags {header.flags}")
        groups = round_up(header.columns, self.group) // self.group
        strips = np.frombuffer(blob.payload, self._record()).reshape(-1, groups)
        strips = strips[begin // STRIP_ROWS : (end + STRIP_ROWS - 1) // STRIP_ROWS]
        codes = unpack_words(from_strips(strips["words"]), self.bits)  # (rows, groups, group)
        values = _TABLE[self.bits][_windows(codes, self.bits)]
        values *= self.layout.scales.values(strips["d"].transpose(0, 2, 1).reshape(-1, groups, 1))
        values *= np.float32(header.scale)
        return np.ascontiguousarray(values.reshape(len(values), -1)[: end - begin, : header.columns])

    def unit(self, largest: float) -> float:
        """The header's scale for a matrix whose largest magnitude that is, a power of two."""
        return power_of_two_scale(largest * (E4M4_UNIT if self.e4m4 else 1.0))

    def _strips(self, coded: Coded) -> memoryview:
        """Whole strips as they are stored."""
        count, groups = coded.d.shape
        padded = pad_rows(count)
        codes = np.zeros((padded, groups * self.group), np.uint8)
        codes[:count] = coded.codes
        d = np.zeros((padded, groups), self.layout.scales.dtype)
        d[:count] = coded.d
        strips = np.empty((padded // STRIP_ROWS, groups), self._record())
        strips["d"] = d.reshape(-1, STRIP_ROWS, groups).transpose(0, 2, 1)
        strips["words"] = to_strips(pack_words(codes.reshape(padded, groups, self.group), self.bits))
        return strips.view(np.uint8).data.cast("B")

    def _record(self) -> np.dtype[np.void]:
        """One strip's record of one group of columns."""
        words = self.group * self.bits // 32
        return np.dtype([("d", self.layout.scales.dtype, (STRIP_ROWS,)), ("words", "<u4", (words, STRIP_ROWS))])


def _windows(codes: Codes, bits: int) -> Codes:
    """What looks a weight up, 0..15. codes: uint8 (..., n), stored bits by column; n a multiple of 16."""
    circles: Codes = codes.reshape(*codes.shape[:-1], -1, CIRCLE)[..., PLACES]
    before: Codes = np.roll(circles, 1, axis=-1)
    one, two, low, high = (np.uint8(number) for number in (1, 2, 3, 4))
    windows = before | circles << two
    if bits == 3:
        windows = before >> one & one | (circles & low) << one | (circles & high) << one
    return windows[..., PLACES].reshape(codes.shape)


def _full_name(name: str) -> TrellisCodec | None:
    match = re.fullmatch(r"trellis-([23])bit-g(32|64|128)(-e4m4)?", name)
    return TrellisCodec(int(match[1]), int(match[2]), match[3] is not None) if match else None


def _errors(weight: Floats, ordered: Ordered, codecs: Sequence[StreamCodec]) -> Floats:
    largest = float(np.abs(weight).max())
    own = [codec for codec in codecs if isinstance(codec, TrellisCodec)]
    rounding = Rounding.by(ordered)

    def errors(codec: TrellisCodec, refined: bool) -> Floats:
        unit = np.float32(codec.unit(largest))
        w = weight / unit
        coded = fit_propagated(w, rounding, codec.layout, refined)
        return row_errors(coded.values - w, ordered.hessian) * (unit * unit)

    found = np.stack([errors(codec, refined=False) for codec in own])
    coarsest = int(found.sum(axis=1).argmax())
    return found * refined_share(errors(own[coarsest], refined=True), found[coarsest])


def _size(bits: int) -> SizeRule:
    def payload_bytes(rows: int, columns: int, group: int, flags: int) -> int:
        record = (1 if flags & FLAG_E4M4 else 2) + group * bits // 8  # of one row and group
        return pad_rows(rows) * (round_up(columns, group) // group) * record

    return payload_bytes


def _rules(bits: int, decode_cost: float) -> FormatRules:
    def decoder(header: BlobHeader) -> TrellisCodec:
        return TrellisCodec(bits, header.group, bool(header.flags & FLAG_E4M4))

    return FormatRules(
        _FORMAT[bits],
        payload_bytes=_size(bits),
        decoder=decoder,
        decode_cost=decode_cost,
        groups=GROUPS,
        flags=FLAG_E4M4,
        operator=True,
    )


DECLARATION = Declaration(
    formats=(_rules(3, decode_cost=1.5), _rules(2, decode_cost=0.9)),
    codecs=(TrellisCodec(3, 64, True, "trellis-3bit"), TrellisCodec(2, 64, True, "trellis-2bit")),
    recipes={"trellis-3bit": "affine-4bit", "trellis-2bit": "affine-4bit"},
    gaussian_error={
        "trellis-3bit": 0.0250,
        "trellis-3bit-g128-e4m4": 0.0261,
        "trellis-2bit": 0.0931,
        "trellis-2bit-g128-e4m4": 0.0957,
    },
    trial=Trial(block_order, _errors),
    full_name=_full_name,
    full_names="trellis-<2|3>bit-g<32|64|128>, with -e4m4 behind it or not",
)
