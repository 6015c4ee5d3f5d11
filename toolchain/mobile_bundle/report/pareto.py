"""Size against quality: which of several candidates are worth having, and figures of others to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobile_bundle.errors import InputError, printable
from mobile_bundle.files.inputs import read_json


@dataclass(frozen=True)
class Point:
    """bytes: of the weights and what is needed to read text with them; perplexity: by the report's own protocol; kl:
    mean KL(original || this), nats per token, where it was measured."""

    name: str
    bytes: int
    perplexity: float
    kl: float | None = None


@dataclass(frozen=True)
class PointSet:
    """Figures of others. origin: whose they are, in a few words; note: how they were measured, for a person."""

    origin: str
    note: str
    points: list[Point]


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Indices, by size, of the points that no other beats: as small and as good, and better in one of the two."""
    order = sorted(range(len(points)), key=lambda index: (points[index].bytes, points[index].perplexity))
    front: list[int] = []
    for index in order:
        best = points[front[-1]] if front else None
        twin = best is not None and (points[index].bytes, points[index].perplexity) == (best.bytes, best.perplexity)
        if best is None or points[index].perplexity < best.perplexity or twin:
            front.append(index)
    return front


def read_points(path: Path, context: int, windows: int) -> PointSet:
    """A JSON file: a list of {"name", "bytes", "perplexity"} (and perhaps "kl"), or an object with that list as
    "points", and perhaps "origin" and "note" (text), "context" and "windows" (the protocol that the figures were
    measured by).

    UserError if it is not such a file, or if its protocol is another than windows of `context` tokens: figures of
    different windows cannot be compared."""
    try:
        data = read_json(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    head = data if isinstance(data, dict) else {}
    listed = head.get("points") if isinstance(data, dict) else data
    if not isinstance(listed, list) or not listed:
        raise InputError(
            f'{path} must hold a list of {{"name", "bytes", "perplexity"}}, or an object with that list as "points"'
        )
    theirs = head.get("context", context), head.get("windows", windows)
    if not all(type(number) is int for number in theirs):
        raise InputError(f"{path}: context and windows must be whole numbers")
    if theirs != (context, windows):
        raise InputError(
            f"{path}: measured on {theirs[1]} windows of {theirs[0]} tokens, this report on {windows} of {context}: "
            f"they cannot be compared (give `context` {theirs[0]} `windows` {theirs[1]}, or omit `points`)"
        )
    points = [_point(path, number, item) for number, item in enumerate(listed)]
    origin, note = head.get("origin", path.name), head.get("note", "")
    if not isinstance(origin, str) or not isinstance(note, str):
        raise InputError(f"{path}: origin and note must be text")
    return PointSet(printable(origin), printable(note), points)


def _point(path: Path, number: int, item: Any) -> Point:
    if not isinstance(item, dict):
        raise InputError(f"{path}: entry {number + 1} is not an object")
    name, size, perplexity = item.get("name"), item.get("bytes"), item.get("perplexity")
    if not isinstance(name, str) or not name:
        raise InputError(f"{path}: entry {number + 1} has no name")
    if isinstance(size, bool) or not isinstance(size, int) or size <= 0:
        raise InputError(f"{path}: {name!r}: bytes must be a whole number above 0")
    if isinstance(perplexity, bool) or not isinstance(perplexity, (int, float)) or perplexity < 1:
        raise InputError(f"{path}: {name!r}: perplexity must be a number of at least 1")
    kl = item.get("kl")
    if isinstance(kl, bool) or not isinstance(kl, (int, float, type(None))) or (kl is not None and kl < 0):
        raise InputError(f"{path}: {name!r}: kl must be a number of at least 0")
    return Point(printable(name), size, float(perplexity), kl)
