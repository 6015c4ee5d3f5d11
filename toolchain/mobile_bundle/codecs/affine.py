"""Affine codes of 2 to 6 or 8 bits: per row and group of columns an fp16 scale d, and an fp16 offset m if asymmetric.

w = scale * d * (code - 2**(bits-1))     symmetric; 8 bits: w = scale * d * code
w = scale * (d * code + m)               asymmetric
`scale`, a power of two, is chosen from the largest magnitude of the matrix so that it maps into [2**14, 2**15): every
d and m fits into fp16, and one stays a normal number down to 2**-28 of the largest weight.

Layout (packed_formats.h): strips of 16 rows; per strip one record per group of columns: 16 d, 16 m if asymmetric, codes
interleaved (interleave.py). Columns are padded to the group with code 0, rows to 16 with code 0 and d = m = 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.affine_exact import all_exact, fit_exact
from mobile_bundle.codecs.affine_fit import Fit, Halves, fit_asymmetric, fit_symmetric, large_ones_count
from mobile_bundle.codecs.affine_propagated import Grid, Rounding, fit_propagated, try_grids
from mobile_bundle.codecs.blob import FLAG_ASYMMETRIC, STRIP_ROWS, Blob, BlobHeader, round_up
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
from mobile_bundle.codecs.propagation import Ordered, energy_order, refined_share, row_errors
from mobile_bundle.codecs.source import Floats, MatrixSource
from mobile_bundle.codecs.stats import Stats

GROUPS = (32, 64, 128)
"""Columns that may share a scale."""
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
_TRIED = 32
"""Groups that tell whether looking for an exact fit is worth it."""
_REFITS = {2: 4, 3: 2, 4: 2, 5: 2, 6: 1, 8: 0}


class AffineCodec(StreamCodec):
    """bits 2, 3, 4, 5, 6 or 8; group 32, 64 or 128 columns. name: a short one, for the best setting of so many bits.

    ValueError for other bits or groups."""

    calibrated = True

    def __init__(self, bits: int, group: int, asymmetric: bool, name: str | None = None) -> None:
        if bits not in _FORMAT or group not in GROUPS:
            raise ValueError(f"no affine layout of {bits} bits in groups of {group}")
        self.bits = bits
        self.format = _FORMAT[bits]
        self.group = group
        self.asymmetric = asymmetric
        self.flags = FLAG_ASYMMETRIC if asymmetric else 0
        self._short = name is not None
        self._name = name or f"affine-{bits}bit-g{group}-{'asym' if asymmetric else 'sym'}"
        self.shrink, self.refits = _SHRINK[bits], _REFITS[bits]

    @property
    def name(self) -> str:
        return self._name

    def encode_stream(self, source: MatrixSource, write: Write, stats: Stats | None = None) -> Encoded:
        """With stats.hessian errors are propagated (affine_propagated.py)."""
        scale = power_of_two_scale(largest_magnitude(source))
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
            d = np.zeros((count, groups), np.float16)
            m = np.zeros((count, groups), np.float16)
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
        smaller = [AffineCodec(self.bits, group, self.asymmetric) for group in GROUPS if group < self.group]
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

    def _strips(self, columns: int, codes: Floats, d: Halves, m: Halves) -> memoryview:
        """Whole strips as they are stored. codes: float32 (rows, groups * group) as fitted, the first `columns` real;
        d, m: float16 (rows, groups)."""
        count, groups = d.shape
        padded = pad_rows(count)
        stored = np.zeros((padded, groups * self.group), np.uint8)
        if self.bits == 8:
            stored[:count] = codes.astype(np.int8).view(np.uint8)
        else:
            stored[:count, :columns] = codes[:, :columns] + np.float32(self._bias)
        strips = np.empty((padded // STRIP_ROWS, groups), self._record())
        for name, values in (("d", d), ("m", m)):
            if name == "m" and not self.asymmetric:
                continue
            whole = np.zeros((padded, groups), "<f2")
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
        d = strips["d"].transpose(0, 2, 1).reshape(-1, groups, 1).astype(np.float32)
        if self.bits == 8:
            values = codes.view(np.int8).astype(np.float32)
        else:
            values = codes.astype(np.float32)
            if not self.asymmetric:
                values -= np.float32(1 << (self.bits - 1))
        values *= d
        if self.asymmetric:
            values += strips["m"].transpose(0, 2, 1).reshape(-1, groups, 1).astype(np.float32)
        values *= np.float32(header.scale)
        return np.ascontiguousarray(values.reshape(len(values), -1)[: end - begin, : header.columns])

    def steps(self, blob: Blob) -> tuple[Floats, Floats]:
        """scale * d and scale * m (zeros if symmetric) of a blob that this codec wrote, float32 (rows, groups)."""
        header = blob.header
        groups = round_up(header.columns, self.group) // self.group
        strips = np.frombuffer(blob.payload, self._record()).reshape(-1, groups)
        found = []
        for name in ("d", "m") if self.asymmetric else ("d",):
            values = strips[name].transpose(0, 2, 1).reshape(-1, groups)[: header.rows].astype(np.float32)
            found.append(values * np.float32(header.scale))
        return found[0], found[1] if self.asymmetric else np.zeros_like(found[0])

    def _record(self) -> np.dtype[np.void]:
        """One strip's record of one group of columns."""
        offsets = [("m", "<f2", (STRIP_ROWS,))] if self.asymmetric else []
        words = self.group * self.bits // 32
        return np.dtype([("d", "<f2", (STRIP_ROWS,)), *offsets, ("words", "<u4", (words, STRIP_ROWS))])

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
        if not all_exact(w[:_TRIED], low, high, self.asymmetric):
            return self._fit_lossy(w, importance)
        exact = fit_exact(w, low, high, self.asymmetric)
        fit, rest = exact.fit(self.asymmetric), ~exact.found
        if rest.any():
            counts = importance if importance is None or importance.ndim == 1 else importance[rest]
            lossy = self._fit_lossy(w[rest], counts)
            fit.codes[rest], fit.d[rest], fit.error[rest] = lossy.codes, lossy.d, lossy.error
            if fit.m is not None and lossy.m is not None:
                fit.m[rest] = lossy.m
        return fit

    def _fit_lossy(self, w: Floats, importance: Floats | None) -> Fit:
        search = fit_asymmetric if self.asymmetric else fit_symmetric
        return search(w, *self.levels, self.shrink, self.refits, importance)

    def holds(self, w: Floats) -> bool:
        """Whether the codes give rows of a matrix exactly. w: float32 (n, columns), in fp16's range already."""
        low, high = self.levels
        full = w.shape[1] // self.group * self.group
        parts = [w[:, :full].reshape(-1, self.group)] if full else []
        parts += [w[:, full:]] if full < w.shape[1] else []
        return all(all_exact(np.ascontiguousarray(part), low, high, self.asymmetric) for part in parts)

    @property
    def grid(self) -> Grid:
        """What is rounded to with error propagation."""
        return Grid(self.group, *self.levels, self._fit)

    @property
    def lossy_grid(self) -> Grid:
        """The same for weights that are known not to lie on it, or whose loss on it is known without trying."""
        return Grid(self.group, *self.levels, self._fit_lossy)


def power_of_two_scale(largest: float) -> float:
    """The power of two that brings `largest` (finite, >= 0) into [2**14, 2**15); never subnormal; 1 for 0."""
    if largest == 0:
        return 1.0
    _, exponent = math.frexp(largest)  # largest = f * 2**exponent, f in [0.5, 1)
    return math.ldexp(1.0, max(exponent - 15, -126))


def strip_size(bits: int) -> SizeRule:
    """The size rule of formats whose strips are records of scales (and offsets) and codes of so many bits."""

    def payload_bytes(rows: int, columns: int, group: int, flags: int) -> int:
        record = 2 * (2 if flags & FLAG_ASYMMETRIC else 1) + group * bits // 8  # of one row and group
        return pad_rows(rows) * (round_up(columns, group) // group) * record

    return payload_bytes


def _full_name(name: str) -> AffineCodec | None:
    match = re.fullmatch(r"affine-([234568])bit-g(32|64|128)-(a?)sym", name)
    return AffineCodec(int(match[1]), int(match[2]), match[3] == "a") if match else None


def _errors(weight: Floats, ordered: Ordered, codecs: Sequence[StreamCodec]) -> Floats:
    scale = np.float32(power_of_two_scale(float(np.abs(weight).max())))
    grids = [codec.lossy_grid for codec in codecs if isinstance(codec, AffineCodec)]
    w, rounding, hessian = weight / scale, Rounding.by(ordered), ordered.hessian
    rounded = try_grids(w, rounding, grids)
    errors = np.stack([row_errors(values - w, hessian) for values in rounded])
    coarsest = int(errors.sum(axis=1).argmax())
    refined = row_errors(fit_propagated(w, rounding, grids[coarsest]).values - w, hessian)
    return errors * refined_share(refined, errors[coarsest]) * (scale * scale)


def _rules(bits: int, decode_cost: float) -> FormatRules:
    def decoder(header: BlobHeader) -> AffineCodec:
        return AffineCodec(bits, header.group, bool(header.flags & FLAG_ASYMMETRIC))

    return FormatRules(
        _FORMAT[bits],
        payload_bytes=strip_size(bits),
        decoder=decoder,
        decode_cost=decode_cost,
        groups=GROUPS,
        flags=FLAG_ASYMMETRIC,
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
        "affine-6bit": 0.00054,
        "affine-5bit": 0.0021,
        "affine-4bit-g32-asym": 0.0053,
        "affine-4bit-g64-asym": 0.0071,
        "affine-4bit": 0.0082,
        "affine-4bit-g128-sym": 0.0094,
        "affine-3bit-g32-asym": 0.0232,
        "affine-3bit-g64-asym": 0.0297,
        "affine-3bit": 0.0325,
        "affine-3bit-g128-sym": 0.0365,
        "affine-2bit-g32-asym": 0.1014,
        "affine-2bit-g64-asym": 0.1185,
    },
    trial=Trial(energy_order, _errors),
    full_name=_full_name,
    full_names="affine-<2|3|4|5|6|8>bit-g<32|64|128>-<sym|asym>",
)
