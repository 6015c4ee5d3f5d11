"""What is known of one run of a program on a device: from its own output, from mobile-watch, from the device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

from mobile_bundle.device.measuring.outcome import NO_RESULT, OK, Outcome
from mobile_bundle.device.measuring.state import DeviceState
from mobile_bundle.events.kinds import (
    BenchEvent,
    DoneEvent,
    ErrorEvent,
    LoadEvent,
    Memory,
    PromptEvent,
    StateEvent,
    TokenEvent,
)
from mobile_bundle.events.parse import read_events


@dataclass(frozen=True)
class Peak:
    """The highest resident set of one process by three witnesses: mobile-watch's last sample of VmHWM, the program's
    own reading of it, and ru_maxrss, the kernel's account after its end."""

    sampled: int | None = None
    reported: int | None = None
    rusage: int | None = None

    @property
    def highest(self) -> int | None:
        """The highest of the three. A process that was killed has no ru_maxrss."""
        return max((v for v in (self.sampled, self.reported, self.rusage) if v is not None), default=None)


@dataclass
class Run:
    """One process; None: not known. These fields are its JSON in a report.

    outcome: while only the program was heard, how it says that it ended. prefill, decode: tokens per second, one per
    repetition in it. load_seconds, first_token_seconds: from the start of the process. answer: ids of the tokens that
    were generated. peak_anon_bytes: RssAnon + VmSwap. refaults: file pages that the device had to read again.
    pressure_full: percent of ten seconds in which every task waited for memory. predicted_peak_bytes: by the program,
    for the very tokens that were fed; predicted: for a full context, in the manifest's words. cancel_seconds: from
    asking to stop to the end of the answer, with the way to the device and back. kept_tokens: of the prompt, not
    computed again; state_seconds: that saving the state, or taking it up, took. timeline: rows of seconds, anonymous,
    file-backed and swapped bytes of the process, bytes available on the device."""

    number: int
    outcome: Outcome = NO_RESULT
    command: str = ""
    seconds: float | None = None
    cpu_seconds: float | None = None
    caches_dropped: bool | None = None
    kernels: str | None = None
    threads: int | None = None
    load_seconds: float | None = None
    first_token_seconds: float | None = None
    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None
    answer: list[int] = field(default_factory=list)
    reason: str | None = None
    cancel_seconds: float | None = None
    kept_tokens: int | None = None
    state_seconds: float | None = None
    peak: Peak = field(default_factory=Peak)
    peak_anon_bytes: int | None = None
    pss_bytes: int | None = None
    major_faults: int | None = None
    refaults: int | None = None
    pressure_full: float | None = None
    predicted_peak_bytes: int | None = None
    predicted: dict[str, int] | None = None
    notes: list[str] = field(default_factory=list)
    before: DeviceState | None = None
    after: DeviceState | None = None
    timeline: list[list[float | int | None]] = field(default_factory=list)


def take_runner_lines(run: Run, lines: Iterable[str]) -> None:
    """What mobile-run said of itself with --json, into the run. Raises EventError."""
    for event in read_events(lines):
        match event:
            case LoadEvent():
                run.kernels, run.threads = event.kernels, event.threads
                run.load_seconds = event.load_seconds
                run.predicted = {name: size for name, size in asdict(event.predicted).items() if size is not None}
            case PromptEvent():
                run.prefill, run.prompt_tokens = [event.tokens_per_second], event.tokens
                run.kept_tokens = event.kept_tokens
            case TokenEvent():
                if event.id >= 0:
                    run.answer.append(event.id)
            case DoneEvent():
                run.reason = event.reason
                run.decode = [event.tokens_per_second] if event.tokens else []
                run.first_token_seconds = event.first_token_seconds
                run.predicted_peak_bytes = event.predicted_peak_bytes
                _take_last_word(run, event.memory)
            case StateEvent():
                run.state_seconds = event.seconds
            case BenchEvent():
                rates = list(event.tokens_per_second)
                run.prefill, run.decode = (rates, []) if event.test.startswith("pp") else ([], rates)
                run.first_token_seconds = event.first_token_seconds
                _take_last_word(run, event.memory)
            case ErrorEvent():
                run.outcome = Outcome("error", event.message)


def _take_last_word(run: Run, memory: Memory) -> None:
    run.peak, run.peak_anon_bytes = replace(run.peak, reported=memory.peak_rss_bytes), memory.peak_anon_bytes
    if run.outcome == NO_RESULT:
        run.outcome = OK
