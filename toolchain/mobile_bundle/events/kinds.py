"""One dataclass per event of events.schema.json, with its fields under the same names.

Sizes are bytes, times seconds. None, or a default: the field is not required, and was left out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Memory:
    """What /proc says of the process. peak_rss_bytes: VmHWM; peak_anon_bytes: RssAnon + VmSwap."""

    peak_rss_bytes: int
    peak_anon_bytes: int
    anon_bytes: int
    file_bytes: int
    swap_bytes: int
    major_faults: int


@dataclass(frozen=True)
class Predicted:
    """The manifest's prediction, for the context that the bundle was opened with."""

    file_bytes: int
    anon_bytes: int
    kv_bytes_per_token: int
    peak_bytes: int
    form_bytes: int | None = None


@dataclass(frozen=True)
class InstallEvent:
    """mobile-run: `tensor` is being decoded."""

    done_bytes: int
    total_bytes: int
    tensor: str


@dataclass(frozen=True)
class InstalledEvent:
    """mobile-run install: everything is decoded. decoded_bytes 0: there was nothing to do."""

    bundle: str
    tensors: int
    stored_bytes: int
    decoded_bytes: int
    cache_bytes: int
    seconds: float
    bytes_per_second: float
    peak_anon_bytes: int
    peak_rss_bytes: int


@dataclass(frozen=True)
class LoadEvent:
    """mobile-run: the bundle is open. load_seconds: from the start of the process."""

    bundle: str
    kernels: str
    threads: int
    context: int
    load_seconds: float
    predicted: Predicted
    runtime: str = "native"


@dataclass(frozen=True)
class ReadingEvent:
    """mobile-run generate and serve: more of a long prompt is read, every 64 tokens or so."""

    done_tokens: int
    total_tokens: int


@dataclass(frozen=True)
class PromptEvent:
    """mobile-run generate and serve: the prompt is read. kept_tokens: of `tokens`, not computed again."""

    tokens: int
    seconds: float
    tokens_per_second: float
    kept_tokens: int = 0
    dropped_messages: int = 0


@dataclass(frozen=True)
class TokenEvent:
    """mobile-run generate and serve: one more token. id -1: the rest of a text that was cut."""

    id: int
    text: str


@dataclass(frozen=True)
class DoneEvent:
    """mobile-run generate and serve: the answer is complete. reason: "eos", "stop", "length", "context"
    or "cancelled"."""

    reason: str
    prompt_tokens: int
    tokens: int
    seconds: float
    tokens_per_second: float
    prompt_tokens_per_second: float
    first_token_seconds: float
    predicted_peak_bytes: int
    memory: Memory
    guessed_tokens: int | None = None
    right_guesses: int | None = None
    state_bytes: int | None = None


@dataclass(frozen=True)
class StateEvent:
    """mobile-run serve: a state was saved to a file or resumed from one. action: "saved" or "resumed"."""

    action: str
    tokens: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class BenchEvent:
    """mobile-run bench. test: "pp512" (prefill) or "tg128" (decode). tokens_per_second: one per repetition."""

    test: str
    threads: int
    tokens_per_second: list[float]
    load_seconds: float
    first_token_seconds: float
    memory: Memory


@dataclass(frozen=True)
class VerifiedEvent:
    """mobile-run verify: weights and tokenizer are whole."""

    bundle: str


@dataclass(frozen=True)
class ErrorEvent:
    """mobile-run, in place of the result. kind: "argument", "io", "format", "memory", "numeric", "cancelled"."""

    message: str
    kind: str | None = None


@dataclass(frozen=True)
class StartEvent:
    """mobile-watch: the command runs. interval: seconds between samples. caches_dropped: where that was asked for."""

    pid: int
    interval: float
    caches_dropped: bool | None = None


@dataclass(frozen=True)
class SampleEvent:
    """mobile-watch: the command `t` seconds after its start; from available_bytes on, of the whole device."""

    t: float
    rss_bytes: int
    anon_bytes: int
    file_bytes: int
    swap_bytes: int
    hwm_bytes: int
    major_faults: int
    minor_faults: int
    utime: float
    stime: float
    available_bytes: int | None = None
    swap_free_bytes: int | None = None
    psi_some_avg10: float | None = None
    psi_full_avg10: float | None = None
    refault_file: int | None = None
    pgmajfault: int | None = None


@dataclass(frozen=True)
class DetailEvent:
    """mobile-watch: what smaps_rollup says of the command."""

    t: float
    pss_bytes: int
    private_dirty_bytes: int
    swap_pss_bytes: int


@dataclass(frozen=True)
class ExitEvent:
    """mobile-watch: the command ended, with a status or by a signal. reason: why it could not be started; then nothing
    was measured. interrupted: the signal that ended mobile-watch itself."""

    status: int | None = None
    signal: int | None = None
    reason: str | None = None
    maxrss_bytes: int | None = None
    hwm_bytes: int | None = None
    major_faults: int | None = None
    user_seconds: float | None = None
    system_seconds: float | None = None
    seconds: float | None = None
    timed_out: bool = False
    core: bool = False
    interrupted: int | None = None


@dataclass(frozen=True)
class HoldingEvent:
    """mobile-watch hog: the memory is taken."""

    pid: int
    anon_bytes: int


Event = (
    InstallEvent | InstalledEvent | LoadEvent | ReadingEvent | PromptEvent | TokenEvent | DoneEvent | StateEvent
    | BenchEvent | VerifiedEvent | ErrorEvent | StartEvent | SampleEvent | DetailEvent | ExitEvent | HoldingEvent
)  # fmt: skip

EVENTS: dict[str, type[Event]] = {
    "install": InstallEvent,
    "installed": InstalledEvent,
    "load": LoadEvent,
    "reading": ReadingEvent,
    "prompt": PromptEvent,
    "token": TokenEvent,
    "done": DoneEvent,
    "state": StateEvent,
    "bench": BenchEvent,
    "verified": VerifiedEvent,
    "error": ErrorEvent,
    "start": StartEvent,
    "sample": SampleEvent,
    "detail": DetailEvent,
    "exit": ExitEvent,
    "holding": HoldingEvent,
}
"""The class of every event, by its name in the line."""
