"""Texts that end an answer, by the rule of runtime/runner/stop.h."""

from __future__ import annotations

from collections.abc import Sequence

from mobile_bundle.errors import ArgumentError

_MOST = 8
_MOST_BYTES = 256


def check_stops(stops: Sequence[str]) -> tuple[str, ...]:
    """The stop strings as given. ArgumentError for what `mobile-run serve` would refuse."""
    if isinstance(stops, str) or not all(isinstance(stop, str) for stop in stops) or len(stops) > _MOST:
        raise ArgumentError(f"`stop` must be a list of at most {_MOST} texts")
    for stop in stops:
        if not 1 <= len(stop.encode("utf-8", "replace")) <= _MOST_BYTES:
            raise ArgumentError(f"`stop` {stop!r}: must have 1 to {_MOST_BYTES} bytes")
    return tuple(stops)


class StopWatch:
    """Holds back what may become a stop string. An answer ends with the first character that completes one, wherever
    its pieces begin and end, and is cut where the longest of those that are complete there begins."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held = stops, ""
        self.stopped = False

    def piece(self, text: str) -> str:
        """The next piece; what of it and of earlier ones can be shown. `stopped` says whether the answer ends there."""
        start, text = len(self._held), self._held + text
        self._held = ""
        for end in range(start + 1, len(text) + 1):
            if found := [stop for stop in self._stops if text.endswith(stop, 0, end)]:
                self.stopped = True
                return text[: end - max(map(len, found))]
        longest = max(map(len, self._stops), default=1) - 1
        begun = (n for n in range(min(longest, len(text)), 0, -1) if any(s.startswith(text[-n:]) for s in self._stops))
        held = next(begun, 0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> str:
        """What was held back when the answer ends by itself."""
        held, self._held = self._held, ""
        return held
