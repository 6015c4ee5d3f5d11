"""Where names go beside the points of a plot, so that none covers a point or another name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_DISTANCES = (9.0, 16.0, 26.0, 40.0, 56.0, 76.0)
_BESIDE = 2
"""At the first distances a name is seen to belong to its point."""
_CROSSING = 0.1
"""How bad it is to cross a line, where covering a name or a point is 1."""
_DIRECTIONS = tuple(math.radians(degrees) for degrees in (0, 180, -45, -135, 45, 135, -90, 90, -22, -158, 22, 158))
"""To the right first, as one reads; negative is upwards."""


@dataclass(frozen=True)
class Box:
    """A rectangle in the plot's units, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def inside(self, other: Box) -> bool:
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True)
class Wish:
    """A name that wants a place. x, y: its point; must: it gets one even where it has to cover something."""

    text: str
    x: float
    y: float
    must: bool


@dataclass(frozen=True)
class Place:
    """box: of the text; line: whether a line should join it to its point."""

    box: Box
    line: bool


Segment = tuple[float, float, float, float]
"""x and y of its two ends."""


def place_labels(
    wishes: Sequence[Wish],
    markers: Sequence[Box],
    lines: Sequence[Segment],
    frame: Box,
    char_width: float,
    height: float,
) -> list[Place | None]:
    """A place for every wish, in the order given, the most important first; None where there is no room.

    A name that must be shown goes as far as it has to, joined to its point by a line; any other stays beside its point.
    char_width, height: of the text; markers: what no name covers; lines: what it crosses only if need be."""
    taken: list[Box] = []
    leaders: list[Segment] = []
    places: list[Place | None] = []
    for wish in wishes:
        width = char_width * len(wish.text)
        best: tuple[float, float, Box] | None = None
        for distance in _DISTANCES if wish.must else _DISTANCES[:_BESIDE]:
            for direction in _DIRECTIONS:
                box = _beside(wish, distance, direction, width, height)
                if not box.inside(frame):
                    continue
                far = distance >= _DISTANCES[_BESIDE]
                harm = float(sum(box.overlaps(other) for other in (*taken, *markers)))
                harm += sum(_crosses(leader, box) for leader in leaders)
                harm += far * sum(_crosses(_leader(wish, box), other) for other in taken)
                harm += _CROSSING * sum(_crosses(line, box) for line in lines)
                if best is None or harm < best[0]:
                    best = harm, distance, box
            if best is not None and best[0] < _CROSSING:
                break
        if best is None or (best[0] >= 1 and not wish.must):
            places.append(None)
            continue
        far = best[1] >= _DISTANCES[_BESIDE]
        taken.append(best[2])
        if far:
            leaders.append(_leader(wish, best[2]))
        places.append(Place(best[2], far))
    return places


def _beside(wish: Wish, distance: float, direction: float, width: float, height: float) -> Box:
    """The text's rectangle whose nearest edge or corner is `distance` away in that direction."""
    x, y = wish.x + distance * math.cos(direction), wish.y + distance * math.sin(direction)
    across, down = math.cos(direction), math.sin(direction)
    left = x if across > 0.3 else x - width if across < -0.3 else x - width / 2
    top = y if down > 0.3 else y - height if down < -0.3 else y - height / 2
    return Box(left, top, left + width, top + height)


def _leader(wish: Wish, box: Box) -> Segment:
    """From the point to the nearest place of the text."""
    return wish.x, wish.y, min(max(wish.x, box.left), box.right), min(max(wish.y, box.top), box.bottom)


def _crosses(line: Segment, box: Box) -> bool:
    """Whether a segment passes through a rectangle (sampled: a name is far wider than the step)."""
    x0, y0, x1, y1 = line
    steps = max(2, int(math.hypot(x1 - x0, y1 - y0) / 3))
    for step in range(steps):
        t = step / steps
        x, y = x0 + t * (x1 - x0), y0 + t * (y1 - y0)
        if box.left < x < box.right and box.top < y < box.bottom:
            return True
    return False
