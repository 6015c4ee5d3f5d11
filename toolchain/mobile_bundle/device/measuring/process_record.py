"""mobile-watch's lines, read: samples of a process over time, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mobile_bundle.events.kinds import DetailEvent, ExitEvent, SampleEvent, StartEvent
from mobile_bundle.events.parse import read_events


@dataclass
class ProcessRecord:
    """What is known of one watched process. status or signal: None before it has ended. caches_dropped: None where that
    was not asked for. hwm_bytes: VmHWM at the last sample; maxrss_bytes: ru_maxrss. interrupted: the signal that ended
    the watch itself."""

    pid: int | None = None
    caches_dropped: bool | None = None
    samples: list[SampleEvent] = field(default_factory=list)
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


def read_record(lines: Iterable[str]) -> ProcessRecord:
    """Of mobile-watch's standard output, whole or cut off. Raises EventError."""
    record = ProcessRecord()
    for event in read_events(lines):
        match event:
            case StartEvent():
                record.pid, record.caches_dropped = event.pid, event.caches_dropped
            case SampleEvent():
                record.samples.append(event)
                # a process that is killed has no other last word
                record.major_faults, record.hwm_bytes = event.major_faults, event.hwm_bytes
            case DetailEvent():
                record.pss_bytes = max(record.pss_bytes or 0, event.pss_bytes)
            case ExitEvent():
                _take_end(record, event)
    refaults = [sample.refault_file for sample in record.samples if sample.refault_file is not None]
    record.refaults = refaults[-1] - refaults[0] if refaults else 0
    waits = [sample.psi_full_avg10 for sample in record.samples if sample.psi_full_avg10 is not None]
    record.pressure_full = max(waits, default=None)
    return record


def _take_end(record: ProcessRecord, event: ExitEvent) -> None:
    record.status, record.signal = event.status, event.signal
    record.reason, record.timed_out = event.reason, event.timed_out
    record.interrupted, record.seconds = event.interrupted, event.seconds
    if event.maxrss_bytes is not None:
        record.maxrss_bytes, record.hwm_bytes = event.maxrss_bytes, event.hwm_bytes
        record.major_faults = event.major_faults
        record.cpu_seconds = (event.user_seconds or 0.0) + (event.system_seconds or 0.0)
