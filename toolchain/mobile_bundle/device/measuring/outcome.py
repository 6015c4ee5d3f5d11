"""How a run ended, and why. Every end is a result."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from mobile_bundle.device.measuring.process_record import ProcessRecord
from mobile_bundle.device.transport.device_info import DeviceInfo


@dataclass(frozen=True)
class Outcome:
    """kind: "ok", "oom", "killed", "illegal-instruction", "crash", "timeout", "error", "not-started", a DeviceError's
    kind, "not-available" or "not-run". cause: one line for a person, empty for ok. evidence: lines of the device's own
    logs."""

    kind: str
    cause: str = ""
    evidence: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.kind == "ok"


OK = Outcome("ok")

NO_RESULT = Outcome("error", "it ended in order but without its result")
"""What a program is heard to say until it says its last word."""

Evidence = Callable[[], Sequence[str]]
"""Looks for traces in the device's logs; called only when a run ended badly, since it takes a while."""

_OPTIONAL = {
    "x86_64": {"avx2": "AVX2", "fma": "FMA", "f16c": "F16C", "bmi2": "BMI2", "avx512f": "AVX-512"},
    "aarch64": {
        "asimddp": "dot products (asimddp)",
        "i8mm": "int8 matrix products (i8mm)",
        "asimdhp": "half precision (asimdhp)",
        "bf16": "bfloat16 (bf16)",
        "sve": "SVE",
    },
}
"""Instructions that programs are often built for and that some processors lack, by their name in /proc/cpuinfo."""


def classify(
    record: ProcessRecord,
    own: Outcome,
    info: DeviceInfo,
    oom_kills: int | None,
    kill_traces: Evidence,
    crash_traces: Evidence,
    said: Sequence[str] = (),
) -> Outcome:
    """The outcome of a process whose watch ended in order. own: the outcome by the program's own words. oom_kills:
    kills that the kernel counted meanwhile, None where it does not count. said: the last lines of the program that were
    no events."""
    ended_by = record.signal
    if ended_by is None and record.status is not None and record.status > 128:
        ended_by = record.status - 128  # a shell between says it so
    if record.timed_out:
        return Outcome("timeout", f"it did not end within {record.seconds or 0:.0f} s and was ended", list(said[-3:]))
    if record.status == 127 and record.reason:
        return Outcome("not-started", f"it could not be started: {record.reason}")
    if ended_by == signal.SIGKILL:
        return _killed(oom_kills, list(kill_traces()))
    if ended_by == signal.SIGILL:
        return Outcome("illegal-instruction", f"SIGILL: {missing_instructions(info)}", list(crash_traces()))
    if ended_by is not None:
        traces = list(crash_traces()) or list(said[-3:])
        return Outcome("crash", f"it crashed with {_signal_name(ended_by)}", traces)
    if not own.ok and own != NO_RESULT:
        return own
    if record.status != 0:
        last = said[-1] if said else "it said nothing"
        return Outcome("error", f"it ended with status {record.status}: {last}", list(said[-3:]))
    return replace(own, evidence=list(said[-3:])) if own == NO_RESULT else own


def _killed(oom_kills: int | None, traces: list[str]) -> Outcome:
    if oom_kills:
        return Outcome(
            "oom", "killed for want of memory (OOM): the kernel counted an out-of-memory kill meanwhile", traces
        )
    if traces:
        return Outcome("oom", f"killed for want of memory (OOM): {traces[-1]}", traces)
    known = "the kernel counted no out-of-memory kill" if oom_kills == 0 else "no log says why"
    return Outcome("killed", f"ended by SIGKILL; {known}: somebody else ended it")


def missing_instructions(info: DeviceInfo) -> str:
    """What an illegal instruction most likely was."""
    names = _OPTIONAL.get("aarch64" if info.machine.startswith(("aarch64", "armv8")) else info.machine, {})
    missing = [text for name, text in names.items() if name not in info.features]
    if not missing:
        return "an instruction that this processor does not have"
    return f"an instruction that this processor does not have; of the usual ones it lacks {', '.join(missing)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
