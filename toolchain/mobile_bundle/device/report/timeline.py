"""The memory of one run over time, as SVG that stands for itself inside a page: anonymous below, file-backed on top."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from mobile_bundle.device.measuring.result import Run
from mobile_bundle.report.text import megabytes

_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 10.0, 22.0, 32.0
_MOST_POINTS = 240
"""A soak has tens of thousands of samples; of each group that shares a pixel the highest is drawn."""


@dataclass(frozen=True)
class _Row:
    """seconds; anonymous (swap included) and all resident bytes, swap included."""

    t: float
    anon: float
    total: float


def timeline_svg(run: Run, predicted: int | None, width: int, height: int, kind: str, key: str) -> str:
    """An <svg> of that size in CSS pixels. predicted: the manifest's peak, a dashed line. kind: "wide" or "narrow", its
    class; key: once in a page. "" for a run that ended before its second sample."""
    rows = _thinned([_row(row) for row in run.timeline])
    if len(rows) < 2:
        return ""
    seconds = max(rows[-1].t, 1e-3)
    highest = max(max(row.total for row in rows), predicted or 0, 1)
    step = _step(highest / 1e6 / (4 if height > 200 else 3)) * 1e6
    top = math.ceil(highest / step) * step

    def x(t: float) -> float:
        return _LEFT + t / seconds * (width - _LEFT - _RIGHT)

    def y(size: float) -> float:
        return height - _BOTTOM - size / top * (height - _TOP - _BOTTOM)

    base = y(0)
    total = " ".join(f"L{x(row.t):.1f} {y(row.total):.1f}" for row in rows)
    anon = " ".join(f"L{x(row.t):.1f} {y(row.anon):.1f}" for row in rows)
    close = f"L{x(rows[-1].t):.1f} {base:.1f}Z"
    start = f"M{x(rows[0].t):.1f} {base:.1f}"
    peak = max(row.total for row in rows)
    text = f"peak {megabytes(int(peak))}, of it at most {megabytes(int(max(row.anon for row in rows)))} anonymous"
    parts = [
        f'<svg class="plot timeline {kind}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-labelledby="{key}-{kind}-title {key}-{kind}-text">',
        f'<title id="{key}-{kind}-title">Memory over time</title>',
        f'<desc id="{key}-{kind}-text">{escape(text)}</desc>',
        *_grid(width, height, step, top, seconds, x, y),
        f'<path class="file" d="{start}{total}{close}"/>',
        f'<path class="anon" d="{start}{anon}{close}"/>',
    ]
    if predicted is not None:
        at = y(predicted)
        parts.append(
            f'<line class="predicted" x1="{_LEFT}" y1="{at:.1f}" x2="{width - _RIGHT}" y2="{at:.1f}"/>'
            f'<text class="tick" x="{width - _RIGHT}" y="{at - 4:.1f}" text-anchor="end">predicted peak</text>'
        )
    return "".join([*parts, "</svg>"])


def _row(row: Sequence[float | int | None]) -> _Row:
    t, anon, file, swap = (float(value or 0) for value in row[:4])
    return _Row(t, anon + swap, anon + file + swap)


def _thinned(rows: Sequence[_Row]) -> list[_Row]:
    group = math.ceil(len(rows) / _MOST_POINTS)
    if group <= 1:
        return list(rows)
    groups = [rows[at : at + group] for at in range(0, len(rows), group)]
    return [max(some, key=lambda row: row.total) for some in groups[:-1]] + [groups[-1][-1]]


def _step(least: float) -> float:
    """The next round number: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(least, 1e-6)))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= least * 0.999)


def _grid(
    width: int,
    height: int,
    step: float,
    top: float,
    seconds: float,
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> list[str]:
    parts = []
    for number in range(round(top / step) + 1):
        at = y(number * step)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" y1="{at:.1f}" x2="{width - _RIGHT}" y2="{at:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{number * step / 1e6:g}</text>'
        )
    every = _step(seconds / (6 if width > 500 else 4))
    for number in range(math.floor(seconds / every + 1e-9) + 1):
        parts.append(
            f'<text class="tick" x="{x(number * every):.1f}" y="{height - _BOTTOM + 15:.1f}" text-anchor="middle">'
            f"{number * every:g}</text>"
        )
    parts.append(
        f'<text class="axis" x="4" y="12">MB</text>'
        f'<text class="axis" x="{width - _RIGHT}" y="{height - 3}" text-anchor="end">seconds</text>'
    )
    return parts
