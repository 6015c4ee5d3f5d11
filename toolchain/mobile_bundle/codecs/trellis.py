"""Trellis codes of 2, 2.5 and 3 bits (MB_FORMAT_TRELLIS2, _TRELLIS25, _TRELLIS3): a weight is looked up by its own
bits and some of the three weights before it.

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

_FORMAT = {2: Format.TRELLIS2, 2.5: Format.TRELLIS25, 3: Format.TRELLIS3}
_TABLES = {
    2: [[4, 11, 13, 8, 15, 19, 22, 17, 10, 15, 17, 13, 19, 24, 28, 21]] * 2,
    2.5: [
        [1, 7, 16, 19, 10, 13, 22, 26, 6, 10, 19, 22, 13, 16, 25, 31],
        [1, 8, 5, 12, 15, 20, 17, 22, 10, 15, 12, 17, 20, 26, 24, 31],
    ],
    3: [[3, 7, 16, 18, 12, 14, 21, 23, 9, 11, 18, 20, 14, 16, 25, 29]] * 2,
}
_LEVELS = {bits: np.array(tables, np.float32) - np.float32(16) for bits, tables in _TABLES.items()}
"""By window of the columns at even and at odd places, as packed/trellis_layout.h has them."""


class TrellisCodec(StreamCodec):
    """bits 2, 2.5 or 3; group 32, 64 or 128 columns, with 2.5 bits 64 or 128; e4m4: scales are bytes. name: the short
    one, for the best setting of so many bits.

    ValueError for other bits or groups."""

    calibrated = True

    def __init__(self, bits: float, group: int, e4m4: bool, name: str | None = None) -> None:
        if bits not in _FORMAT or group not in _groups(bits):
            raise ValueError(f"no trellis layout of {bits} bits in groups of {group}")
        self.bits = bits
        self.format = _FORMAT[bits]
        self.group = group
        self.e4m4 = e4m4
        self.flags = FLAG_E4M4 if e4m4 else 0
        self.layout = Layout(bits, group, E4M4 if e4m4 else FP16)
        self._short = name is not None
        self._name = name or f"trellis-{bits:g}bit-g{group}{'-e4m4' if e4m4 else ''}"

    @property
    def name(self) -> str:
        return self._name

    def fitted(self, columns: int) -> TrellisCodec:
        if not self._short:
            return self  # its full name asks for exactly this group
        smaller = [TrellisCodec(self.bits, group, self.e4m4) for group in _groups(self.bits) if group < self.group]
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
        values = _values(codes, self.bits)
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
        words = round(self.group * self.bits / 32)
        return np.dtype([("d", self.layout.scales.dtype, (STRIP_ROWS,)), ("words", "<u4", (words, STRIP_ROWS))])


def _values(codes: Codes, bits: float) -> Floats:
    """The levels that codes stand for, float32. codes: uint8 (..., n), stored bits by column; n a multiple of 16."""
    circles: Codes = codes.reshape(*codes.shape[:-1], -1, CIRCLE)[..., PLACES]
    upper = circles >> np.uint8(1) & np.uint8(1)
    first, second, third = (np.roll(upper, 1 + before, axis=-1) for before in range(3))
    pairs, planes = (circles & np.uint8(3)) << np.uint8(2), circles >> np.uint8(2)
    levels = np.empty(circles.shape, np.float32)
    for place, table in enumerate(_LEVELS[bits]):
        own = np.s_[..., place::2]
        other = planes if bits == 3 or (bits == 2.5 and place == 0) else first
        levels[own] = table[second[own] ^ third[own] | other[own] << np.uint8(1) | pairs[own]]
    return levels[..., PLACES].reshape(codes.shape)


def _full_name(name: str) -> TrellisCodec | None:
    match = re.fullmatch(r"trellis-(2|2\.5|3)bit-g(32|64|128)(-e4m4)?", name)
    if not match or int(match[2]) not in _groups(float(match[1])):
        return None
    return TrellisCodec(float(match[1]), int(match[2]), match[3] is not None)


def _groups(bits: float) -> tuple[int, ...]:
    """A word of the plane has bits of 64 columns where half of them have one."""
    return GROUPS[1:] if bits == 2.5 else GROUPS


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


def _size(bits: float) -> SizeRule:
    def payload_bytes(rows: int, columns: int, group: int, flags: int) -> int:
        record = (1 if flags & FLAG_E4M4 else 2) + round(group * bits / 8)  # of one row and group
        return pad_rows(rows) * (round_up(columns, group) // group) * record

    return payload_bytes


def _rules(bits: float, decode_cost: float) -> FormatRules:
    def decoder(header: BlobHeader) -> TrellisCodec:
        return TrellisCodec(bits, header.group, bool(header.flags & FLAG_E4M4))

    return FormatRules(
        _FORMAT[bits],
        payload_bytes=_size(bits),
        decoder=decoder,
        decode_cost=decode_cost,
        groups=_groups(bits),
        flags=FLAG_E4M4,
        operator=True,
    )


DECLARATION = Declaration(
    # Costs: those of the layout before (0.9 and 1.5) times what the new kernels take of its time (docs/RECIPES.md).
    formats=(_rules(3, decode_cost=2.1), _rules(2, decode_cost=1.3), _rules(2.5, decode_cost=1.7)),
    codecs=(
        TrellisCodec(3, 64, True, "trellis-3bit"),
        TrellisCodec(2.5, 64, True, "trellis-2.5bit"),
        TrellisCodec(2, 64, True, "trellis-2bit"),
    ),
    recipes={"trellis-3bit": "affine-4bit", "trellis-2.5bit": "affine-4bit", "trellis-2bit": "affine-4bit"},
    gaussian_error={
        "trellis-3bit": 0.0228,
        "trellis-3bit-g128-e4m4": 0.0238,
        "trellis-2.5bit": 0.0435,
        "trellis-2.5bit-g128-e4m4": 0.0451,
        "trellis-2bit": 0.0824,
        "trellis-2bit-g128-e4m4": 0.0845,
    },
    trial=Trial(block_order, _errors),
    full_name=_full_name,
    full_names="trellis-<2|2.5|3>bit-g<32|64|128>, with -e4m4 behind it or not",
)
