"""Groups of weights that lie on an affine grid already: the fp16 scale (and offset) and codes that give them exactly.

A checkpoint that was trained or quantised at few bits holds w = d * code (symmetric) or d * code + m. d is found again
by whole numbers: every value of a group is a whole multiple of the lowest bit that any of them has, d is a divisor of
the greatest common divisor of these multiples (or of their distances from the smallest, for an offset), and the
coarsest one that fp16 holds and whose codes are in range is taken. So it does not matter which levels the group uses.
Guesses that are right for most groups come first, because they are cheap: the smallest magnitude is d, the largest one
(or the span) has the outermost code. Where d and m differ so much in size that their sum was rounded to float32, d is
the span divided by each number of steps in turn.

Shapes as in affine_fit.py: w float32 (n, G), brought into fp16's range by the matrix's power of two; low, high: the
lowest and highest code. "Exactly" means that the decoder's own float32 arithmetic gives w; -0 counts as 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.affine_fit import Fit, Halves
from mobile_bundle.codecs.source import Floats

Doubles = NDArray[np.float64]
Whole = NDArray[np.int64]

_FIRST = 8
"""Groups that are looked at first: where these are on no grid, the others are not looked at."""
_SPAN_BITS = 24
"""Lowest to highest bit of what float32 arithmetic gives exactly."""
_NEAR = 2.0**-10
"""A code from rounded values is no further from a whole number: values are right to 2**-24, of at most 255 steps."""
_MOST_DIVISORS = 128
"""Of the greatest common divisor, tried where fp16 does not hold it: the codes of an 8-bit group may share a factor."""


@dataclass
class Exact:
    """found: bool (n,); d, m, codes as in Fit, right where found."""

    found: NDArray[np.bool_]
    d: Halves
    m: Halves
    codes: Floats

    def fit(self, asymmetric: bool) -> Fit:
        """As the fits without a grid give it, error 0."""
        return Fit(self.codes, self.d, self.m if asymmetric else None, *np.zeros((2, len(self.d)), np.float32))


def all_exact(w: Floats, low: int, high: int, asymmetric: bool) -> bool:
    """Whether every group is on a grid. Cheap where the first ones are not."""
    return all(
        bool(fit_exact(part, low, high, asymmetric).found.all()) for part in (w[:_FIRST], w[_FIRST:]) if len(part)
    )


def fit_exact(w: Floats, low: int, high: int, asymmetric: bool) -> Exact:
    """The exact codes of every group that has any."""
    n = len(w)
    exact = Exact(np.zeros(n, bool), np.zeros(n, np.float16), np.zeros(n, np.float16), np.zeros(w.shape, np.float32))
    search = _Search(exact, w, low, high)
    for step in (
        (search.span, search.constants, search.divisors_of_distances, search.rounded_sums)
        if asymmetric
        else (search.smallest, search.largest, search.divisors)
    ):
        step()
        if exact.found.all():
            break
    return exact


@dataclass
class _Search:
    """Ways to d and m, each for the groups that are still open."""

    exact: Exact
    w: Floats
    low: int
    high: int

    def smallest(self) -> None:
        """d is the smallest magnitude. Groups of zeros have d = 0."""
        rows = self._open()
        magnitude = np.abs(self.w[rows])
        d = np.where(magnitude > 0, magnitude, np.inf).min(axis=1).astype(np.float64)
        d[~np.isfinite(d)] = 0
        self._take(rows, d, np.zeros_like(d))

    def largest(self) -> None:
        """The largest magnitude has the lowest code."""
        rows = self._open()
        top, bottom = self._ends(rows)
        self._take(rows, np.where(top >= -bottom, top, bottom) / self.low, np.zeros(len(rows)))

    def span(self) -> None:
        """The smallest and the largest value have the outermost codes."""
        rows = self._open()
        top, bottom = self._ends(rows)
        d = _rounded((top - bottom) / (self.high - self.low))
        self._take(rows, d, bottom - self.low * d)

    def constants(self) -> None:
        """Groups of one value: what fp16 holds of it is m, the rest is d with code 1; or d by any code, m the rest."""
        rows = self._open()
        rows = rows[(self.w[rows] == self.w[rows, :1]).all(axis=1)]
        value = self.w[rows, 0].astype(np.float64)
        m = _rounded(value)
        self._take(rows, value - m, m)
        for code in range(1, self.high + 1):
            left = ~self.exact.found[rows]
            rows, value = rows[left], value[left]
            if not len(rows):
                return
            d = _rounded(value / code)
            self._take(rows, d, value - d * code)

    def divisors(self) -> None:
        """d divides every value."""
        rows, values, exponent = self._whole_numbers()
        divisor = np.gcd.reduce(np.abs(values), axis=1)
        codes = values // np.maximum(divisor, 1)[:, None]
        top, bottom = codes.max(axis=1, initial=0), codes.min(axis=1, initial=0)
        for factor in range(1, _MOST_DIVISORS + 1):
            for sign in (1, -1):
                above, below = (top, -bottom) if sign > 0 else (-bottom, top)
                fits = (factor * above <= self.high) & (factor * below <= -self.low) & (divisor % factor == 0)
                d = np.ldexp((sign * divisor // factor).astype(np.float64), exponent)
                fits &= _held(d) & ~self.exact.found[rows]
                self._take(rows[fits], d[fits], np.zeros(int(fits.sum())))
            left = ~self.exact.found[rows] & ((factor + 1) * np.maximum(top, -bottom) <= max(self.high, -self.low))
            rows, exponent, divisor, top, bottom = (a[left] for a in (rows, exponent, divisor, top, bottom))
            if not len(rows):
                return

    def divisors_of_distances(self) -> None:
        """d divides every value's distance from the smallest one."""
        rows, values, exponent = self._whole_numbers()
        least, most = values.min(axis=1), values.max(axis=1)
        divisor = np.gcd.reduce(values - least[:, None], axis=1)
        steps = (most - least) // np.maximum(divisor, 1)
        levels = self.high - self.low
        first = np.arange(levels + 1)  # the code of the smallest value, above `low`; of the largest one where d < 0
        for factor in range(1, _MOST_DIVISORS + 1):
            left = ~self.exact.found[rows] & (divisor > 0) & (factor * steps <= levels)
            rows, exponent, divisor, steps, least, most = (
                a[left] for a in (rows, exponent, divisor, steps, least, most)
            )
            if not len(rows):
                return
            step = divisor // factor
            d = np.ldexp(step.astype(np.float64), exponent)
            fits = _held(d) & (divisor % factor == 0)
            for sign, end in ((1, least), (-1, most)):
                m = end[:, None] - sign * step[:, None] * (self.low + first)
                held = (np.abs(m) >> 11) < np.maximum(m & -m, 1)  # 11 bits, as fp16 has
                held &= (first + factor * steps[:, None] <= levels) & fits[:, None]
                held &= ~self.exact.found[rows][:, None]
                some = np.flatnonzero(held.any(axis=1))
                chosen = m[some, held[some].argmax(axis=1)].astype(np.float64)
                self._take(rows[some], sign * d[some], np.ldexp(chosen, exponent[some]))

    def rounded_sums(self) -> None:
        """d * code + m was rounded: m is in the middle or at an end (a tie) of what all values allow."""
        levels = self.high - self.low
        for steps in range(levels, 0, -1):
            rows = self._open()
            top, bottom = self._ends(rows)
            d = _rounded((top - bottom) / steps)
            usable = (d > 0) & np.isfinite(d)
            rows, d, bottom = rows[usable], d[usable], bottom[usable]
            codes = (self.w[rows] - bottom[:, None]) / d[:, None]
            near = (np.abs(codes - np.rint(codes)) < _NEAR).all(axis=1)
            rows, d, codes = rows[near], d[near], np.rint(codes[near])
            if not len(rows):
                continue
            rest = self.w[rows] - d[:, None] * codes
            half = np.spacing(np.abs(self.w[rows])).astype(np.float64) / 2
            least, most = (rest - half).max(axis=1), (rest + half).min(axis=1)
            for first in range(self.low, self.high + 1 - steps):
                for sign, shift in ((1, -d * first), (-1, d * (first + steps))):
                    for m in ((least + most) / 2, least, most):
                        left = ~self.exact.found[rows]
                        self._take(rows[left], sign * d[left], (m + shift)[left])

    def _open(self) -> NDArray[np.intp]:
        return np.flatnonzero(~self.exact.found)

    def _ends(self, rows: NDArray[np.intp]) -> tuple[Doubles, Doubles]:
        w = self.w[rows]
        return w.max(axis=1).astype(np.float64), w.min(axis=1).astype(np.float64)

    def _take(self, rows: NDArray[np.intp], d: Doubles, m: Doubles) -> None:
        """Keeps d and m, rounded to fp16, of those groups to which they give the weights exactly."""
        if not len(rows):
            return
        w = self.w[rows]
        with np.errstate(over="ignore", invalid="ignore"):
            d16, m16 = d.astype(np.float16), m.astype(np.float16)
            step, offset = d16.astype(np.float32)[:, None], m16.astype(np.float32)[:, None]
            codes = np.divide(w - offset, step, out=np.zeros_like(w), where=step != 0)
            np.rint(codes, out=codes)
            np.clip(codes, self.low, self.high, out=codes)
            right = np.isfinite(d16) & np.isfinite(m16) & (codes * step + offset == w).all(axis=1)
        taken = rows[right]
        self.exact.found[taken] = True
        self.exact.d[taken], self.exact.m[taken], self.exact.codes[taken] = d16[right], m16[right], codes[right]

    def _whole_numbers(self) -> tuple[NDArray[np.intp], Whole, NDArray[np.int32]]:
        """Open groups whose values span few enough bits: which ones, and their values as whole numbers times
        2**exponent, int64 (k, G)."""
        rows = self._open()
        mantissa, power = np.frexp(self.w[rows])
        whole = np.ldexp(mantissa, 24).astype(np.int64)
        lowest = power - 25 + np.frexp((whole & -whole).astype(np.float32))[1]  # the exponent of the lowest bit
        used = whole != 0
        exponent = np.where(used, lowest, 1000).min(axis=1)
        few = np.where(used, power, -1000).max(axis=1) - exponent <= _SPAN_BITS
        rows, exponent = rows[few], exponent[few]
        return rows, np.ldexp(self.w[rows].astype(np.float64), -exponent[:, None]).astype(np.int64), exponent


def _rounded(values: Doubles) -> Doubles:
    """To fp16; infinite where they are too large."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float64)


def _held(values: Doubles) -> NDArray[np.bool_]:
    """Which values fp16 holds exactly."""
    with np.errstate(over="ignore"):
        return np.asarray(values.astype(np.float16) == values)
