"""How the scale d and the offset m of a group are stored: fp16 each, or a byte each (packed_formats.h, MB_FLAG_E4M4).

As bytes d is E4M4 and m = -d * zero, where zero, the code that stands for 0, is a whole number of units of
2**(bits - 8). Codes are chosen for the d and m that are stored, so what rounding d costs is that the best range is
missed by a few per cent, and what rounding zero costs is next to nothing: the grid moves by a 32nd of a step at most,
with 4 bits.

Shapes: any; d and m of one shape, float16 or float32, exactly as they will be decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.scale_types import E4M4, Stored
from mobile_bundle.codecs.source import Floats

Steps = NDArray[np.floating[Any]]


class StepType(Protocol):
    @property
    def zero_inside(self) -> bool:
        """Whether 0 always lies in the range of the codes. A group far from 0 is coded badly then."""

    @property
    def coarse(self) -> bool:
        """Whether a scale cannot be made a few per cent larger."""

    def scale(self, d: Floats) -> Steps:
        """The nearest d that can be stored; the caller's scaling keeps it in range."""

    def offset(self, m: Floats, d: Steps) -> Steps:
        """The nearest m beside that d."""

    def stronger(self, d: Steps, m: Steps, gains: Floats) -> tuple[Steps, Steps]:
        """Both, for values `gains` times as large. d, m: (rows, groups); gains: (rows, 1)."""


class HalfSteps:
    """fp16."""

    zero_inside = False
    coarse = False

    def scale(self, d: Floats) -> Steps:
        return d.astype(np.float16)

    def offset(self, m: Floats, d: Steps) -> Steps:
        del d
        return m.astype(np.float16)

    def stronger(self, d: Steps, m: Steps, gains: Floats) -> tuple[Steps, Steps]:
        return (d * gains).astype(np.float16), (m * gains).astype(np.float16)


HALVES = HalfSteps()


@dataclass(frozen=True)
class ByteSteps:
    """bits: of the codes. unit: what scales are given in, relative to what is stored."""

    bits: int
    unit: float = 1.0
    zero_inside = True
    coarse = True

    @property
    def _units(self) -> np.float32:
        """Of the zero point, in one step of a code."""
        return np.float32(1 << (8 - self.bits))

    def scale(self, d: Floats) -> Steps:
        unit = np.float32(self.unit)
        return E4M4.values(E4M4.stored(d / unit)) * unit

    def offset(self, m: Floats, d: Steps) -> Steps:
        return self.values(self.zeros(m, d), d)

    def stronger(self, d: Steps, m: Steps, gains: Floats) -> tuple[Steps, Steps]:
        unit = np.float32(self.unit)
        larger = E4M4.values(E4M4.stored_evenly(d * gains / unit)) * unit
        return larger, self.values(self.zeros(m, d), larger)

    def zeros(self, m: Steps, d: Steps) -> Stored:
        """As they are stored, uint8; 0 where d is 0."""
        zero = np.divide(-m, d, out=np.zeros(np.shape(m), np.float32), where=np.asarray(d) != 0)
        stored: Stored = np.clip(np.rint(zero * self._units), 0, 255).astype(np.uint8)
        return stored

    def values(self, zeros: Stored, d: Steps) -> Floats:
        """m, float32."""
        m: Floats = -np.asarray(d, np.float32) * (zeros.astype(np.float32) / self._units)
        return m
