"""One run: a process of its own under mobile-watch, with the device's state before and after."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mobile_bundle.device.adb import Device
from mobile_bundle.device.cells import Cell
from mobile_bundle.device.errors import TransportError
from mobile_bundle.device.facts import DeviceFacts
from mobile_bundle.device.figures import Figures
from mobile_bundle.device.live import LiveProgram, lost
from mobile_bundle.device.outcome import Outcome, classify
from mobile_bundle.device.places import Places
from mobile_bundle.device.pressure import memory_pressure
from mobile_bundle.device.results import Peak, Run
from mobile_bundle.device.state import DeviceState, read_state
from mobile_bundle.device.subject import Subject
from mobile_bundle.device.traces import crash_traces, kill_traces
from mobile_bundle.device.watch import Watched, read_watch
from mobile_bundle.errors import DeviceError
from mobile_bundle.files.inputs import json_lines

_CANCEL_AFTER = 4
"""Tokens of an answer before the cancel cell stops it."""

_ATTEMPTS = 2
"""Times that a run is started where only the connection broke."""


_COUNTER_SECONDS = 0.4
"""After a kill, before the counter of kills is read: a stand-in device's is brought up to date five times a second."""


@dataclass
class _Heard:
    """What came over the two streams. asked, answered: when a cancel was sent, and the last word after it came."""

    events: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    tokens: int = 0
    asked: float | None = None
    answered: float | None = None
    status: int = 0
    notes: list[str] = field(default_factory=list)


def run_cell(
    device: Device,
    facts: DeviceFacts,
    places: Places,
    subject: Subject,
    cell: Cell,
    number: int,
    command: Sequence[str],
) -> Run:
    """Runs the command once and tells how it ended. Raises DeviceError where the device could not be asked."""
    line = _command_line(cell, places, command, subject.environment(places))
    before = read_state(device)
    heard = _listen_twice(device, places, cell, line)
    watched = read_watch(heard.events)
    figures = subject.read(cell, heard.said)
    try:
        if watched.signal == signal.SIGKILL:
            time.sleep(_COUNTER_SECONDS)
        after = read_state(device)
    except DeviceError as error:  # the run is over and counts; the next one will meet the same
        after = None
        heard.notes.append(f"its state after the run is not known: {error}")
    outcome = _outcome(device, facts, command, watched, figures, heard, before, after)
    return _run(number, shlex.join(command), outcome, watched, figures, heard, before, after)


def _command_line(cell: Cell, places: Places, command: Sequence[str], environment: Mapping[str, str]) -> str:
    watch = [places.watch, "--timeout", f"{cell.timeout:g}"]
    if cell.drop_caches:
        watch.append("--drop-caches")
    variables = ["env", *(f"{name}={value}" for name, value in environment.items())] if environment else []
    return f"cd {shlex.quote(places.work)} && exec {shlex.join([*variables, *watch, '--', *command])}"


def _listen_twice(device: Device, places: Places, cell: Cell, line: str) -> _Heard:
    """A run of which only the connection broke is started again, once the device is back."""
    notes: list[str] = []
    for attempt in range(_ATTEMPTS):
        try:
            heard = _listen(device, places, cell, line)
            heard.notes = notes + heard.notes
            return heard
        except TransportError as error:
            if attempt == _ATTEMPTS - 1:
                raise
            device.reconnect()
            notes.append(f"the connection broke and came back, so it was run again ({error})")
    raise AssertionError("unreachable")


def _listen(device: Device, places: Places, cell: Cell, line: str) -> _Heard:
    heard = _Heard()
    with memory_pressure(device, places, cell.pressure_bytes) as hog, LiveProgram(device, line) as program:
        cancels = cell.name == "cancel"
        if not cancels:
            program.close_input()

        def hear(stream: str, text: str) -> None:
            if stream == "out":
                heard.events.append(text)
                return
            heard.said.append(text)
            if cancels:
                _maybe_cancel(program, heard, text)

        heard.status = program.follow(cell.timeout + 60, hear)
        if hog is not None and not hog.running():
            heard.notes.append("the second process was killed meanwhile: the pressure went away")
    if not read_watch(heard.events).ended and (error := lost(device, heard.status, "\n".join(heard.said))):
        raise error
    return heard


def _maybe_cancel(program: LiveProgram, heard: _Heard, text: str) -> None:
    for event in json_lines([text]):
        if event.get("event") == "token":
            heard.tokens += 1
            if heard.tokens == _CANCEL_AFTER:
                heard.asked = time.monotonic()
                program.send("cancel\n")
        elif event.get("event") == "done":
            heard.answered = time.monotonic()


def _outcome(
    device: Device,
    facts: DeviceFacts,
    command: Sequence[str],
    watched: Watched,
    figures: Figures,
    heard: _Heard,
    before: DeviceState,
    after: DeviceState | None,
) -> Outcome:
    plain = [line for line in heard.said if line and not line.startswith("{")]
    if not watched.ended:
        last = f": {plain[-1]}" if plain else ""
        return Outcome("killed", f"mobile-watch ended with status {heard.status} before the program did{last}")
    kills = None
    if after is not None and after.oom_kills is not None and before.oom_kills is not None:
        kills = after.oom_kills - before.oom_kills
    name, since = command[0].rpartition("/")[2], before.up_seconds
    return classify(
        watched,
        figures,
        facts,
        kills,
        lambda: kill_traces(device, name, watched.pid, since),
        lambda: crash_traces(device, name, since),
        plain,
    )


def _run(
    number: int,
    command: str,
    outcome: Outcome,
    watched: Watched,
    figures: Figures,
    heard: _Heard,
    before: DeviceState,
    after: DeviceState | None,
) -> Run:
    cancelled = heard.asked is not None and heard.answered is not None
    return Run(
        number=number,
        outcome=outcome,
        command=command,
        seconds=watched.seconds,
        cpu_seconds=watched.cpu_seconds,
        caches_dropped=watched.caches_dropped,
        kernels=figures.kernels,
        threads=figures.threads,
        load_seconds=figures.load_seconds,
        first_token_seconds=figures.first_token_seconds,
        prefill=figures.prefill,
        decode=figures.decode,
        prompt_tokens=figures.prompt_tokens,
        answer=figures.answer,
        reason=figures.reason,
        cancel_seconds=(heard.answered or 0.0) - (heard.asked or 0.0) if cancelled else None,
        peak=Peak(watched.hwm_bytes, figures.peak_rss_bytes, watched.maxrss_bytes),
        peak_anon_bytes=max(watched.peak_anon_bytes, figures.peak_anon_bytes or 0) or None,
        pss_bytes=watched.pss_bytes,
        major_faults=watched.major_faults,
        refaults=watched.refaults,
        pressure_full=watched.pressure_full,
        predicted_peak_bytes=figures.predicted_peak_bytes,
        predicted=figures.predicted,
        notes=heard.notes,
        before=before,
        after=after,
        timeline=[[s.t, s.anon_bytes, s.file_bytes, s.swap_bytes, s.available_bytes] for s in watched.samples],
    )
