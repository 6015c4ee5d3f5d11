"""mobile-watch's lines, read: samples of a process over time, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mobile_bundle.files.inputs import json_lines


@dataclass(frozen=True)
class Sample:
    """t: seconds since the process started; bytes as /proc tells them; available_bytes: of the device."""

    t: float
    rss_bytes: int
    anon_bytes: int
    file_bytes: int
    swap_bytes: int
    available_bytes: int | None


@dataclass
class Watched:
    """What is known of one watched process. status or signal: None before it has ended. caches_dropped: None where that
    was not asked for. hwm_bytes: VmHWM at the last sample; maxrss_bytes: ru_maxrss. interrupted: the signal that ended
    the watch itself."""

    pid: int | None = None
    caches_dropped: bool | None = None
    samples: list[Sample] = field(default_factory=list)
    pss_bytes: int | None = None
    pressure_full: float | None = None
    refaults: int = 0
    status: int | None = None
    signal: int | None = None
    reason: str | None = None
    timed_out: bool = False
    interrupted: int | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    maxrss_bytes: int | None = None
    hwm_bytes: int | None = None
    major_faults: int | None = None

    @property
    def ended(self) -> bool:
        """Whether the watch told how the process ended."""
        return self.status is not None or self.signal is not None

    @property
    def peak_anon_bytes(self) -> int:
        """The highest RssAnon + VmSwap that was sampled."""
        return max((sample.anon_bytes + sample.swap_bytes for sample in self.samples), default=0)


def read_watch(lines: Iterable[str]) -> Watched:
    """Of mobile-watch's standard output, whole or cut off."""
    watched = Watched()
    refaults: list[int] = []
    for event in json_lines(lines):
        try:
            _take(watched, refaults, event)
        except (KeyError, TypeError):  # a line that only looks like one of ours
            continue
    watched.refaults = refaults[-1] - refaults[0] if refaults else 0
    return watched


def _take(watched: Watched, refaults: list[int], event: dict[str, Any]) -> None:
    match event.get("event"):
        case "start":
            watched.pid, watched.caches_dropped = event["pid"], event.get("caches_dropped")
        case "sample":
            watched.samples.append(
                Sample(
                    t=event["t"],
                    rss_bytes=event["rss_bytes"],
                    anon_bytes=event["anon_bytes"],
                    file_bytes=event["file_bytes"],
                    swap_bytes=event["swap_bytes"],
                    available_bytes=event.get("available_bytes"),
                )
            )
            if "refault_file" in event:
                refaults.append(event["refault_file"])
            if "psi_full_avg10" in event:
                watched.pressure_full = max(watched.pressure_full or 0.0, event["psi_full_avg10"])
            # a process that is killed has no other last word
            watched.major_faults, watched.hwm_bytes = event["major_faults"], event["hwm_bytes"]
        case "detail":
            watched.pss_bytes = max(watched.pss_bytes or 0, event["pss_bytes"])
        case "exit":
            watched.status, watched.signal = event.get("status"), event.get("signal")
            watched.reason, watched.timed_out = event.get("reason"), event.get("timed_out", False)
            watched.interrupted, watched.seconds = event.get("interrupted"), event.get("seconds")
            if "maxrss_bytes" in event:
                watched.maxrss_bytes, watched.hwm_bytes = event["maxrss_bytes"], event["hwm_bytes"]
                watched.major_faults = event["major_faults"]
                watched.cpu_seconds = event["user_seconds"] + event["system_seconds"]
