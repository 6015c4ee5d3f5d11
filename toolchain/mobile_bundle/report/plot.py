"""The Pareto plot: size against perplexity, as SVG that stands for itself inside the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from mobile_bundle.report.labels import Box, Place, Wish, place_labels
from mobile_bundle.report.pareto import Point, pareto_front

_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 12.0, 38.0, 40.0
_RADIUS = 5.0
_TEXT_HEIGHT = 13.0
_WORST = 1.75
"""Perplexities above this many times the best would press all others together: they are shown at the upper edge."""


@dataclass(frozen=True)
class Mark:
    """A point as it is shown. ours: a bundle of the report; detail: what a person reads when pointing at it."""

    point: Point
    ours: bool
    detail: str


@dataclass(frozen=True)
class _Scales:
    """Logarithmic both ways: bytes from small to large, perplexity from low to high."""

    bytes_low: float
    bytes_high: float
    low: float
    high: float
    frame: Box

    def x(self, size: float) -> float:
        share = math.log(size / self.bytes_low) / math.log(self.bytes_high / self.bytes_low)
        return self.frame.left + share * (self.frame.right - self.frame.left)

    def y(self, perplexity: float) -> float:
        share = math.log(perplexity / self.low) / math.log(self.high / self.low)
        return self.frame.bottom - min(share, 1.0) * (self.frame.bottom - self.frame.top)

    def off(self, perplexity: float) -> bool:
        """Whether it lies above the plot."""
        return perplexity > self.high


def pareto_svg(marks: Sequence[Mark], original: float | None, width: int, height: int, name: str) -> str:
    """An <svg> of that size in CSS pixels. original: the checkpoint's perplexity. name: its class, once in a page."""
    points = [mark.point for mark in marks]
    scales = _scales(points, original, Box(_LEFT, _TOP, width - _RIGHT, height - _BOTTOM))
    front = set(pareto_front(points))
    lines = {ours: _front_line(marks, ours, scales) for ours in (False, True)}
    of_others = [index for index, mark in enumerate(marks) if not mark.ours]
    named = {of_others[index] for index in pareto_front([points[index] for index in of_others])}
    places = _places(marks, named, list(lines.values()), original, scales, width)
    parts = [
        f'<svg class="plot {name}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-labelledby="{name}-title {name}-text">',
        f'<title id="{name}-title">Size against perplexity</title>',
        f'<desc id="{name}-text">{escape(_summary(marks, original))}</desc>',
        _axes(scales, width, height),
    ]
    if original is not None:
        y = scales.y(original)
        parts.append(
            f'<line class="original" x1="{scales.frame.left}" y1="{y:.1f}" x2="{scales.frame.right}" y2="{y:.1f}"/>'
            f'<text class="original" x="{scales.frame.right}" y="{y + 12:.1f}" text-anchor="end">'
            f"uncompressed {original:.2f}</text>"
        )
    for ours, line in lines.items():
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
        parts.append(f'<polyline class="front {"ours" if ours else "others"}" points="{corners}"/>')
    for index, (mark, place) in enumerate(zip(marks, places, strict=True)):
        parts.append(_mark(mark, index in front, place, scales, _shown(mark, scales, width)))
    return "".join([*parts, "</svg>"])


def _front_line(marks: Sequence[Mark], ours: bool, scales: _Scales) -> list[tuple[float, float]]:
    """Corners of the line that joins the Pareto front of our own, or of the others' points."""
    group = [mark.point for mark in marks if mark.ours is ours]
    front = [group[index] for index in pareto_front(group)]
    return [(scales.x(p.bytes), scales.y(p.perplexity)) for p in front if not scales.off(p.perplexity)]


def _scales(points: Sequence[Point], original: float | None, frame: Box) -> _Scales:
    sizes = [point.bytes for point in points]
    known = [point.perplexity for point in points] + ([original] if original is not None else [])
    best = min(known)
    high = max(value for value in known if value <= _WORST * best)
    # room at both ends, and a range even where everything is equal
    room = max(0.05 * math.log(high / best), 0.004)
    width = max(0.04 * math.log(max(sizes) / min(sizes)), 0.05)
    return _Scales(
        min(sizes) * math.exp(-width),
        max(sizes) * math.exp(width),
        best * math.exp(-1.8 * room),
        high * math.exp(1.5 * room),
        frame,
    )


def _places(
    marks: Sequence[Mark],
    named: set[int],
    lines: Sequence[Sequence[tuple[float, float]]],
    original: float | None,
    scales: _Scales,
    width: int,
) -> list[Place | None]:
    """Names of our own bundles come first and always have a place; of others those `named`, where there is room."""
    char_width = 6.3 if width > 500 else 5.7
    order = [index for index, mark in enumerate(marks) if mark.ours]
    order += [index for index in sorted(named) if not marks[index].ours]
    at = [(scales.x(mark.point.bytes), scales.y(mark.point.perplexity)) for mark in marks]
    covered = [Box(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y in at]
    if original is not None:  # what is written below its line
        y = scales.y(original)
        covered.append(Box(scales.frame.right - 20 * char_width, y, scales.frame.right, y + 15))
    wishes = [Wish(_shown(marks[index], scales, width), *at[index], marks[index].ours) for index in order]
    frame = Box(scales.frame.left + 2, 16, scales.frame.right + _RIGHT, scales.frame.bottom - 1)
    segments = [(*a, *b) for line in lines for a, b in pairwise(line)]
    found = place_labels(wishes, covered, segments, frame, char_width, _TEXT_HEIGHT)
    places: list[Place | None] = [None] * len(marks)
    for index, place in zip(order, found, strict=True):
        places[index] = place
    return places


def _shown(mark: Mark, scales: _Scales, width: int) -> str:
    """The name as it is written in the plot; with the figure where the point itself lies above it."""
    longest = 30 if width > 500 else 18
    name = mark.point.name if len(mark.point.name) <= longest else f"{mark.point.name[: longest - 1]}…"
    return f"{name} ({mark.point.perplexity:.4g})" if scales.off(mark.point.perplexity) else name


def _mark(mark: Mark, best: bool, place: Place | None, scales: _Scales, shown: str) -> str:
    x, y = scales.x(mark.point.bytes), scales.y(mark.point.perplexity)
    kind = f"{'ours' if mark.ours else 'others'}{' best' if best else ''}"
    r = _RADIUS
    if scales.off(mark.point.perplexity):
        shape = f'<path d="M{x - r:.1f} {y + r:.1f}h{2 * r:.1f}l{-r:.1f} {-2 * r:.1f}z"/>'
    elif mark.ours:
        shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
    else:
        shape = f'<path d="M{x:.1f} {y - r:.1f}l{r} {r}l{-r} {r}l{-r} {-r}z"/>'
    label = line = ""
    if place is not None:
        box = place.box
        near = min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)
        if place.line:
            line = f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{near[0]:.1f}" y2="{near[1]:.1f}"/>'
        anchor, at = ("end", box.right) if box.right <= x else ("start", box.left)
        if box.left < x < box.right:
            anchor, at = "middle", (box.left + box.right) / 2
        label = f'<text x="{at:.1f}" y="{box.bottom - 3:.1f}" text-anchor="{anchor}">{escape(shown)}</text>'
    title = f"<title>{escape(mark.detail)}</title>"
    return f'<g class="mark {kind}">{title}{line}{shape}{label}</g>'


def _axes(scales: _Scales, width: int, height: int) -> str:
    frame = scales.frame
    parts = []
    for value in _log_ticks(scales.bytes_low / 1e6, scales.bytes_high / 1e6, (frame.right - frame.left) / 46):
        x = scales.x(value * 1e6)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" y1="{frame.top}" x2="{x:.1f}" y2="{frame.bottom}"/>'
            f'<text class="tick" x="{x:.1f}" y="{frame.bottom + 15}" text-anchor="middle">{value:g}</text>'
        )
    for value in _log_ticks(scales.low, scales.high, (frame.bottom - frame.top) / 34):
        y = scales.y(value)
        parts.append(
            f'<line class="grid" x1="{frame.left}" y1="{y:.1f}" x2="{frame.right}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{frame.left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    parts.append(
        f'<text class="axis" x="{frame.right}" y="{height - 6}" text-anchor="end">weights and tokenizer, MB</text>'
        f'<text class="axis" x="4" y="12">perplexity, lower is better</text>'
        f'<path class="frame" d="M{frame.left} {frame.top}V{frame.bottom}H{width - _RIGHT}"/>'
    )
    return "".join(parts)


_SERIES = ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.5, 2, 3, 4, 5, 6, 8))
"""Round values of a decade, for axes of more and more room."""


def _log_ticks(low: float, high: float, most: float) -> list[float]:
    """Round values in [low, high] for a logarithmic axis that has room for `most` evenly spread ones: equal steps, or
    the same digits in every decade, whichever gives more without crowding."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    choices = [[digit * 10.0**power for power in decades for digit in series] for series in _SERIES]
    steps = [digit * 10.0**power for power in range(decades.start - 2, decades.stop) for digit in (1, 2, 5)]
    fewest = math.log(high / low) / most  # no step may be smaller than this, at the upper end where steps are closest
    fitting = [step for step in steps if step >= high or -math.log1p(-step / high) >= fewest]
    choices += [[step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)] for step in fitting]
    best: list[float] = []
    for values in choices:
        inside = [float(f"{value:.6g}") for value in values if low <= value <= high]
        apart = min((math.log(b / a) for a, b in pairwise(inside)), default=fewest)
        if len(inside) > len(best) and apart >= fewest:
            best = inside
    return best


def _summary(marks: Sequence[Mark], original: float | None) -> str:
    parts = [f"{mark.point.name}: {mark.detail}" for mark in marks if mark.ours]
    if original is not None:
        parts.append(f"uncompressed: perplexity {original:.3f}")
    return "; ".join(parts)
