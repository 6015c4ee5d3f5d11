"""Affine codes of 2 to 6 or 8 bits: per row and group of columns a scale d, and an offset m if asymmetric.

w = scale * d * (code - 2**(bits-1))     symmetric; 8 bits: w = scale * d * code
w = scale * (d * code + m)               asymmetric
`scale`, a power of two, is chosen from the largest magnitude of the matrix so that it maps into [2**14, 2**15): every
d and m fits into fp16, and one stays a normal number down to 2**-28 of the largest weight. With 3 to 6 bits d and m
may be a byte each (affine_steps.py); `scale` is that by E4M4_UNIT then.

Layout (packed_formats.h): strips of 16 rows; per strip one record per group of columns: 16 d, 16 m (as bytes 16 zero
points) if asymmetric, codes interleaved (interleave.py). Columns are padded to the group with code 0, rows to 16 with
code 0 and d = m = 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.affine_exact import all_exact, fit_exact
from mobile_bundle.codecs.affine_fit import Fit, Halves, fit_asymmetric, fit_symmetric, large_ones_count
from mobile_bundle.codecs.affine_propagated import Grid, Rounding, fit_propagated, try_grids
from mobile_bundle.codecs.affine_steps import HALVES, ByteSteps, Steps, StepType
from mobile_bundle.codecs.blob import FLAG_ASYMMETRIC, FLAG_E4M4, STRIP_ROWS, Blob, BlobHeader, round_up
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
from mobile_bundle.codecs.formats import BlobError, Format
from mobile_bundle.codecs.interleave import from_strips, pack_words, to_strips, unpack_words
from mobile_bundle.codecs.propagation import Ordered, energy_order, refined_share, row_errors
from mobile_bundle.codecs.scale_types import E4M4, E4M4_UNIT
from mobile_bundle.codecs.source import Floats, MatrixSource
from mobile_bundle.codecs.stats import Stats

GROUPS = (32, 64, 128)
"""Columns that may share a scale."""
BYTE_STEPS = (3, 4, 5, 6)
"""Bits of the codes whose scales may be bytes."""
_FORMAT = {
    2: Format.AFFINE2,
    3: Format.AFFINE3,
    4: Format.AFFINE4,
    5: Format.AFFINE5,
    6: Format.AFFINE6,
    8: Format.AFFINE8,
}
# Ranges to try and regressions to follow (affine_fit.py), measured on Gaussian and on trained weights.
_SHRINK: dict[int, tuple[float, ...]] = {
    2: (1.0, 0.8, 0.6),
    3: (1.0, 0.9, 0.8),
    4: (1.0, 0.92, 0.84),
    5: (1.0, 0.95, 0.9),
    6: (1.0, 0.97),
    8: (1.0,),
}
_BYTE_SHRINK: dict[int, tuple[float, ...]] = {
    3: (1.0, 0.95, 0.9, 0.85, 0.8),
    4: (1.03, 0.98, 0.93, 0.88, 0.83),
    5: (1.03, 1.0, 0.97, 0.94, 0.9),
    6: (1.04, 1.02, 1.0, 0.98, 0.96),
}
"""More of them where the scale is rounded to a byte: a range that is missed by 3 % clips, or wastes steps."""
_TRIED = 32
"""Groups that tell whether looking for an exact fit is worth it."""
_REFITS = {2: 4, 3: 2, 4: 2, 5: 2, 6: 1, 8: 0}


class AffineCodec(StreamCodec):
    """bits 2, 3, 4, 5, 6 or 8; group 32, 64 or 128 columns; e4m4: d and m are bytes, which 3 to 6 asymmetric bits may
    have. name: a short one, for the best setting of so many bits.

    ValueError for other bits or groups."""

    calibrated = True

    def __init__(self, bits: int, group: int, asymmetric: bool, name: str | None = None, *, e4m4: bool = False) -> None:
        if bits not in _FORMAT or group not in GROUPS:
            raise ValueError(f"no affine layout of {bits} bits in groups of {group}")
        if e4m4 and not (asymmetric and bits in BYTE_STEPS):
            raise ValueError(f"no affine layout of {bits} bits has such scales of one byte")
        self.bits = bits
        self.format = _FORMAT[bits]
        self.group = group
        self.asymmetric = asymmetric
        self.e4m4 = e4m4
        self.flags = (FLAG_ASYMMETRIC if asymmetric else 0) | (FLAG_E4M4 if e4m4 else 0)
        self._short = name is not None
        self._name = name or f"affine-{bits}bit-g{group}-{'e4m4' if e4m4 else 'asym' if asymmetric else 'sym'}"
        self._bytes = ByteSteps(bits)
        self._stored: StepType = self._bytes if e4m4 else HALVES
        self.shrink, self.refits = (_BYTE_SHRINK if e4m4 else _SHRINK)[bits], _REFITS[bits]

    @property
    def name(self) -> str:
        return self._name

    def encode_stream(self, source: MatrixSource, write: Write, stats: Stats | None = None) -> Encoded:
        """With stats.hessian errors are propagated (affine_propagated.py)."""
        scale = self._unit(largest_magnitude(source))
        header = self._header(source, scale)
        write(header.pack())
        if stats is not None and stats.hessian is not None:
            rounding = Rounding.of(stats.hessian)

            def code(w: Floats) -> tuple[memoryview, Floats]:
                fits = fit_propagated(stats.target(w), rounding, self.grid)
                return self._strips(source.columns, fits.codes, fits.d, fits.m), fits.values

            return write_coded(source, header, stats.hessian, write, code)
        inverse = np.float32(1.0 / scale)
        error = total = 0.0
        groups = round_up(source.columns, self.group) // self.group
        full = source.columns // self.group  # groups without padding
        for chunk in source_chunks(source):
            count = len(chunk)
            w = chunk * inverse  # exact: a power of two
            total += sum_squares(w)
            codes = np.zeros((count, groups * self.group), np.float32)
            d, m = np.zeros((count, groups), np.float32), np.zeros((count, groups), np.float32)
            for first, last, width in ((0, full, self.group), (full, groups, source.columns - full * self.group)):
                if first == last:
                    continue
                begin = first * self.group
                end = begin + (last - first) * width
                fit = self._fit(np.ascontiguousarray(w[:, begin:end]).reshape(-1, width))
                error += float(fit.error.sum(dtype=np.float64))
                d[:, first:last] = fit.d.reshape(count, -1)
                if fit.m is not None:
                    m[:, first:last] = fit.m.reshape(count, -1)
                codes[:, begin:end] = fit.codes.reshape(count, -1)
            write(self._strips(source.columns, codes, d, m))
        return Encoded(header, error * scale * scale, total * scale * scale)

    def fitted(self, columns: int) -> AffineCodec:
        if not self._short:
            return self  # its full name asks for exactly this group
        smaller = [
            AffineCodec(self.bits, group, self.asymmetric, e4m4=self.e4m4) for group in GROUPS if group < self.group
        ]
        return min([*smaller, self], key=lambda each: each.blob_bytes(1, columns))

    def pack_rows(self, codes: Floats, d: Halves, m: Halves | None) -> memoryview:
        """Whole strips of rows whose codes are known: w = d * code (+ m). codes: whole numbers, float32 (rows,
        columns); d, m: float16 (rows, groups). ValueError for a code that the format does not hold."""
        low, high = self.levels
        if codes.min() < low or codes.max() > high:
            raise ValueError(f"it has a code outside {low}..{high}, which format {self.format.name} does not hold")
        padded = np.zeros((len(codes), d.shape[1] * self.group), np.float32)
        padded[:, : codes.shape[1]] = codes
        return self._strips(codes.shape[1], padded, d, np.zeros_like(d) if m is None else m)

    def _unit(self, largest: float) -> float:
        """The header's scale for a matrix whose largest magnitude that is."""
        return power_of_two_scale(largest * (E4M4_UNIT if self.e4m4 else 1.0))

    def _strips(self, columns: int, codes: Floats, d: Steps, m: Steps) -> memoryview:
        """Whole strips as they are stored. codes: float32 (rows, groups * group) as fitted, the first `columns` real;
        d, m: (rows, groups), as they are decoded."""
        count, groups = d.shape
        padded = pad_rows(count)
        stored = np.zeros((padded, groups * self.group), np.uint8)
        if self.bits == 8:
            stored[:count] = codes.astype(np.int8).view(np.uint8)
        else:
            stored[:count, :columns] = codes[:, :columns] + np.float32(self._bias)
        strips = np.empty((padded // STRIP_ROWS, groups), self._record())
        scales = (E4M4.stored(d), self._bytes.zeros(m, d)) if self.e4m4 else (d, m)
        for name, values in zip(self._step_names, scales, strict=False):
            whole = np.zeros((padded, groups), strips[name].dtype)
            whole[:count] = values
            strips[name] = whole.reshape(-1, STRIP_ROWS, groups).transpose(0, 2, 1)
        strips["words"] = to_strips(pack_words(stored.reshape(padded, groups, self.group), self.bits))
        return strips.view(np.uint8).data.cast("B")

    def decode_rows(self, blob: Blob, begin: int, end: int) -> NDArray[np.float32]:
        header = blob.header
        if header.group != self.group or header.flags != self.flags:
            raise ValueError(f"codec {self.name} does not read groups of {header.group} with flags {header.flags}")
        groups = round_up(header.columns, self.group) // self.group
        strips = np.frombuffer(blob.payload, self._record()).reshape(-1, groups)
        strips = strips[begin // STRIP_ROWS : (end + STRIP_ROWS - 1) // STRIP_ROWS]
        codes = unpack_words(from_strips(strips["words"]), self.bits)  # (rows, groups, group)
        d, m = self._decoded_steps(strips, (-1, groups, 1))
        if self.bits == 8:
            values = codes.view(np.int8).astype(np.float32)
        else:
            values = codes.astype(np.float32)
            if not self.asymmetric:
                values -= np.float32(1 << (self.bits - 1))
        values *= d
        if m is not None:
            values += m
        values *= np.float32(header.scale)
        return np.ascontiguousarray(values.reshape(len(values), -1)[: end - begin, : header.columns])

    def steps(self, blob: Blob) -> tuple[Floats, Floats]:
        """scale * d and scale * m (zeros if symmetric) of a blob that this codec wrote, float32 (rows, groups)."""
        header = blob.header
        groups = round_up(header.columns, self.group) // self.group
        strips = np.frombuffer(blob.payload, self._record()).reshape(-1, groups)
        d, m = self._decoded_steps(strips, (-1, groups))
        scale = np.float32(header.scale)
        return d[: header.rows] * scale, (np.zeros_like(d) if m is None else m)[: header.rows] * scale

    def _decoded_steps(self, strips: NDArray[np.void], shape: tuple[int, ...]) -> tuple[Floats, Floats | None]:
        """d, and m if asymmetric, float32, of strips (number, groups)."""
        d, *rest = (strips[name].transpose(0, 2, 1).reshape(shape) for name in self._step_names)
        if self.e4m4:
            decoded = E4M4.values(d)
            return decoded, self._bytes.values(rest[0], decoded)
        return d.astype(np.float32), rest[0].astype(np.float32) if rest else None

    def _record(self) -> np.dtype[np.void]:
        """One strip's record of one group of columns."""
        steps = [(name, "u1" if self.e4m4 else "<f2", (STRIP_ROWS,)) for name in self._step_names]
        return np.dtype([*steps, ("words", "<u4", (self.group * self.bits // 32, STRIP_ROWS))])

    @property
    def _step_names(self) -> tuple[str, ...]:
        """What a record begins with."""
        return ("d", "m") if self.asymmetric else ("d",)

    @property
    def _bias(self) -> int:
        """Stored code = fitted code + bias."""
        return 0 if self.asymmetric or self.bits == 8 else 1 << (self.bits - 1)

    @property
    def levels(self) -> tuple[int, int]:
        """Lowest and highest code, as w = d * code (+ m) has it."""
        low = -127 if self.bits == 8 else -self._bias
        return low, 127 if self.bits == 8 else low + (1 << self.bits) - 1

    def _fit(self, w: Floats, importance: Floats | None = None) -> Fit:
        """w: float32 (n, width); importance: float32 (width,). Groups that are on the grid already lose nothing."""
        low, high = self.levels
        if importance is None and self.bits == 4 and not self.asymmetric:
            importance = large_ones_count(w)
        if self.e4m4 or not all_exact(w[:_TRIED], low, high, self.asymmetric):
            return self._fit_lossy(self._stored, w, importance)
        exact = fit_exact(w, low, high, self.asymmetric)
        fit, rest = exact.fit(self.asymmetric), ~exact.found
        if rest.any():
            counts = importance if importance is None or importance.ndim == 1 else importance[rest]
            lossy = self._fit_lossy(self._stored, w[rest], counts)
            fit.codes[rest], fit.d[rest], fit.error[rest] = lossy.codes, lossy.d, lossy.error
            if fit.m is not None and lossy.m is not None:
                fit.m[rest] = lossy.m
        return fit

    def _fit_lossy(self, stored: StepType, w: Floats, importance: Floats | None) -> Fit:
        if not self.asymmetric:
            return fit_symmetric(w, *self.levels, self.shrink, self.refits, importance)
        return fit_asymmetric(w, *self.levels, self.shrink, self.refits, importance, stored=stored)

    def holds(self, w: Floats) -> bool:
        """Whether the codes give rows of a matrix exactly. w: float32 (n, columns), in fp16's range already."""
        low, high = self.levels
        full = w.shape[1] // self.group * self.group
        parts = [w[:, :full].reshape(-1, self.group)] if full else []
        parts += [w[:, full:]] if full < w.shape[1] else []
        return not self.e4m4 and all(
            all_exact(np.ascontiguousarray(part), low, high, self.asymmetric) for part in parts
        )

    @property
    def grid(self) -> Grid:
        """What is rounded to with error propagation."""
        return Grid(self.group, *self.levels, self._fit, self._stored)

    @property
    def trial_grid(self) -> Grid:
        """The same for weights in power_of_two_scale's units, whichever the codec's own are, that are known not to lie
        on it."""
        stored = replace(self._bytes, unit=E4M4_UNIT) if self.e4m4 else HALVES
        return Grid(self.group, *self.levels, partial(self._fit_lossy, stored), stored)


def power_of_two_scale(largest: float) -> float:
    """The power of two that brings `largest` (finite, >= 0) into [2**14, 2**15); never subnormal; 1 for 0."""
    if largest == 0:
        return 1.0
    _, exponent = math.frexp(largest)  # largest = f * 2**exponent, f in [0.5, 1)
    return math.ldexp(1.0, max(exponent - 15, -126))


def strip_size(bits: int) -> SizeRule:
    """The size rule of formats whose strips are records of scales (and offsets) and codes of so many bits."""

    def payload_bytes(rows: int, columns: int, group: int, flags: int) -> int:
        if flags & FLAG_E4M4 and not (flags & FLAG_ASYMMETRIC and bits in BYTE_STEPS):
            raise BlobError(f"scales of one byte need offsets, and 3 to 6 bits; these are {bits}")
        step = 1 if flags & FLAG_E4M4 else 2
        record = step * (2 if flags & FLAG_ASYMMETRIC else 1) + group * bits // 8  # of one row and group
        return pad_rows(rows) * (round_up(columns, group) // group) * record

    return payload_bytes


def _full_name(name: str) -> AffineCodec | None:
    match = re.fullmatch(r"affine-([234568])bit-g(32|64|128)-(sym|asym|e4m4)", name)
    if match is None or (match[3] == "e4m4" and int(match[1]) not in BYTE_STEPS):
        return None
    return AffineCodec(int(match[1]), int(match[2]), match[3] != "sym", e4m4=match[3] == "e4m4")


def _errors(weight: Floats, ordered: Ordered, codecs: Sequence[StreamCodec]) -> Floats:
    scale = np.float32(power_of_two_scale(float(np.abs(weight).max())))
    grids = [codec.trial_grid for codec in codecs if isinstance(codec, AffineCodec)]
    w, rounding, hessian = weight / scale, Rounding.by(ordered), ordered.hessian
    rounded = try_grids(w, rounding, grids)
    errors = np.stack([row_errors(values - w, hessian) for values in rounded])
    coarsest = int(errors.sum(axis=1).argmax())
    refined = row_errors(fit_propagated(w, rounding, grids[coarsest]).values - w, hessian)
    return errors * refined_share(refined, errors[coarsest]) * (scale * scale)


def _rules(bits: int, decode_cost: float) -> FormatRules:
    def decoder(header: BlobHeader) -> AffineCodec:
        return AffineCodec(
            bits, header.group, bool(header.flags & FLAG_ASYMMETRIC), e4m4=bool(header.flags & FLAG_E4M4)
        )

    return FormatRules(
        _FORMAT[bits],
        payload_bytes=strip_size(bits),
        decoder=decoder,
        decode_cost=decode_cost,
        groups=GROUPS,
        flags=FLAG_ASYMMETRIC | (FLAG_E4M4 if bits in BYTE_STEPS else 0),
        operator=True,
    )


DECLARATION = Declaration(
    formats=(
        _rules(8, decode_cost=1.7),
        _rules(6, decode_cost=1.5),
        _rules(5, decode_cost=1.5),
        _rules(4, decode_cost=1.0),
        _rules(3, decode_cost=1.1),
        _rules(2, decode_cost=0.7),
    ),
    codecs=(
        AffineCodec(8, 32, False, "affine-8bit"),
        AffineCodec(6, 64, False, "affine-6bit"),
        AffineCodec(5, 64, False, "affine-5bit"),
        AffineCodec(4, 64, False, "affine-4bit"),
        AffineCodec(3, 64, False, "affine-3bit"),
        AffineCodec(2, 128, True, "affine-2bit"),
    ),
    recipes={
        "affine-8bit": "affine-8bit",
        "affine-6bit": "affine-6bit",
        "affine-5bit": "affine-5bit",
        "affine-4bit": "affine-4bit",
        "affine-3bit": "affine-4bit",
        "affine-2bit": "affine-4bit",
    },
    gaussian_error={
        "affine-8bit": 2.9e-5,
        "affine-6bit-g32-e4m4": 0.00033,
        "affine-6bit-g64-e4m4": 0.00044,
        "affine-5bit-g32-e4m4": 0.0013,
        "affine-5bit-g64-e4m4": 0.0018,
        "affine-4bit-g32-e4m4": 0.0054,
        "affine-4bit-g64-e4m4": 0.0072,
        "affine-4bit-g128-e4m4": 0.0088,
        "affine-3bit-g32-e4m4": 0.0236,
        "affine-3bit-g64-e4m4": 0.0300,
        "affine-3bit-g128-e4m4": 0.0349,
        "affine-2bit-g32-asym": 0.1014,
        "affine-2bit-g64-asym": 0.1185,
    },
    trial=Trial(energy_order, _errors),
    full_name=_full_name,
    full_names="affine-<2|3|4|5|6|8>bit-g<32|64|128>-<sym|asym>, and -e4m4 with 3 to 6 bits",
)
