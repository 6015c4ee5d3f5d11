"""How the scale of a group of columns is stored: fp16, or E4M4 in a byte (packed_formats.h, MB_FLAG_E4M4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.source import Floats

Stored = NDArray[Any]
"""Scales as they lie in a payload: float16, or uint8."""
_LAST_PLACE = np.float32(1 / 16)
"""The most that a step of E4M4 is of a number."""
_LEAST_GAIN = np.float32(1.01)


@dataclass(frozen=True)
class ScaleType:
    """dtype: of a stored scale. shift: of the bits of an fp16, how many a stored scale leaves out at the low end.
    largest: that it holds."""

    dtype: str
    shift: int
    largest: float

    @property
    def coarse(self) -> bool:
        """Whether a scale cannot be made a few per cent larger."""
        return self.shift > 0

    def stored(self, scales: Floats) -> Stored:
        """The nearest that can be stored, from 0 to `largest`. scales: float32, of any shape."""
        halves = np.clip(scales, 0, np.float32(self.largest)).astype("<f2")
        if self.shift == 0:
            return halves
        bits = halves.view("<u2")
        below = bits >> self.shift
        half, rest = 1 << (self.shift - 1), bits & ((1 << self.shift) - 1)
        up = (rest > half) | ((rest == half) & (below & 1 == 1))  # to nearest, ties to even, as IEEE 754 rounds
        nearest: Stored = (below + up).astype(self.dtype)
        return nearest

    def stored_evenly(self, scales: Floats) -> Stored:
        """As `stored`, for coarse scales, but a group takes up by how much those before it in its row were rounded up
        or down: a row's mean ratio stays. Scales that were stored before and are 3 % larger now would all be rounded
        the same way. scales: float32 (rows, groups)."""
        out = np.empty(scales.shape, self.dtype)
        missing = np.zeros(len(scales), np.float32)
        for group, wanted in enumerate(scales.T):
            out[:, group] = self.stored(wanted * (1 + missing))
            missing += 1 - np.divide(self.values(out[:, group]), wanted, out=np.ones_like(wanted), where=wanted > 0)
            np.clip(missing, -_LAST_PLACE, _LAST_PLACE, out=missing)  # of scales too small to be stored closely
        return out

    def values(self, stored: Stored) -> Floats:
        """float32, of the same shape."""
        if self.shift == 0:
            return stored.astype(np.float32)
        return (stored.astype("<u2") << self.shift).view("<f2").astype(np.float32)


FP16 = ScaleType("<f2", 0, 65504.0)
E4M4 = ScaleType("u1", 6, 1.9375)
"""Four bits of exponent, four of mantissa, no sign: from 2**-14 on within 1/32 of the number, below in steps of
2**-18."""
E4M4_UNIT = 2.0**13
"""What brings affine.power_of_two_scale's units to those of E4M4: the largest weight lies in [2, 4) then, and a group's
scale is at most some 1.1."""


def worthwhile(gains: Floats) -> Floats:
    """propagation.row_gains that coarse scales can follow, 1 in place of the others: a gain of 0.3 % would round every
    tenth scale up by 3 %, which costs more than a row that is 0.3 % too weak."""
    return np.where(gains < _LEAST_GAIN, np.float32(1), gains)
