"""One run: a process of its own under mobile-watch, with the device's state before and after."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mobile_bundle.device.measuring.cells import Cell
from mobile_bundle.device.measuring.outcome import Outcome, classify
from mobile_bundle.device.measuring.pressure import memory_pressure
from mobile_bundle.device.measuring.process_record import ProcessRecord, read_record
from mobile_bundle.device.measuring.program import MeasuredProgram
from mobile_bundle.device.measuring.result import Run
from mobile_bundle.device.measuring.state import read_state
from mobile_bundle.device.measuring.traces import crash_traces, kill_traces
from mobile_bundle.device.transport.adb import Device
from mobile_bundle.device.transport.device_info import DeviceInfo
from mobile_bundle.device.transport.errors import TransportError
from mobile_bundle.device.transport.live import LiveProgram, lost
from mobile_bundle.device.transport.places import Places
from mobile_bundle.errors import DeviceError
from mobile_bundle.events.kinds import DoneEvent, ErrorEvent, StateEvent, TokenEvent
from mobile_bundle.events.parse import EventError, parse_event

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
    info: DeviceInfo,
    places: Places,
    program: MeasuredProgram,
    cell: Cell,
    number: int,
    command: Sequence[str],
) -> Run:
    """Runs the command once and tells how it ended. Raises DeviceError where the device could not be asked."""
    line = _command_line(cell, places, command, program.environment(places))
    run = Run(number, command=shlex.join(command), before=read_state(device))
    try:
        heard = _listen_twice(device, places, cell, line)
        record = read_record(heard.events)
        program.read(cell, heard.said, run)
    except EventError as error:  # another version's program: nothing that it said can be relied on
        return Run(number, Outcome("error", str(error)), run.command, before=run.before)
    run.notes = heard.notes
    if record.signal == signal.SIGKILL:
        time.sleep(_COUNTER_SECONDS)
    try:
        run.after = read_state(device)
    except DeviceError as error:  # the run is over and counts; the next one will meet the same
        run.notes.append(f"the device's state after the run is unknown: {error}")
    run.outcome = _outcome(device, info, command, record, run, heard)
    if heard.asked is not None and heard.answered is not None:
        run.cancel_seconds = heard.answered - heard.asked
    _take_record(run, record)
    return run


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
            notes.append(f"the connection was lost and came back, so the run was repeated ({error})")
    raise AssertionError("unreachable")


def _listen(device: Device, places: Places, cell: Cell, line: str) -> _Heard:
    heard = _Heard()
    with memory_pressure(device, places, cell.pressure_bytes) as hog, LiveProgram(device, line) as program:
        cancels = cell.name == "cancel"
        requests = list(cell.requests)
        if not cancels:
            _ask_next(program, requests)

        def hear(stream: str, text: str) -> None:
            if stream == "out":
                heard.events.append(text)
                return
            heard.said.append(text)
            if cancels:
                _maybe_cancel(program, heard, text)
            elif cell.requests and isinstance(parse_event(text), DoneEvent | StateEvent | ErrorEvent):
                _ask_next(program, requests)

        heard.status = program.follow(cell.timeout + 60, hear)
        if hog is not None and not hog.running():
            heard.notes.append("the second process was killed during the run: the memory pressure ended early")
    if not read_record(heard.events).ended and (error := lost(device, heard.status, "\n".join(heard.said))):
        raise error
    return heard


def _ask_next(program: LiveProgram, requests: list[str]) -> None:
    """Takes the next line out of the list and sends it; behind the last one its input ends."""
    if requests:
        program.send(f"{requests.pop(0)}\n")
    else:
        program.close_input()


def _maybe_cancel(program: LiveProgram, heard: _Heard, text: str) -> None:
    event = parse_event(text)
    if isinstance(event, TokenEvent):
        heard.tokens += 1
        if heard.tokens == _CANCEL_AFTER:
            heard.asked = time.monotonic()
            program.send("cancel\n")
    elif isinstance(event, DoneEvent):
        heard.answered = time.monotonic()


def _outcome(
    device: Device, info: DeviceInfo, command: Sequence[str], record: ProcessRecord, run: Run, heard: _Heard
) -> Outcome:
    plain = [line for line in heard.said if line and not line.startswith("{")]
    if not record.ended:
        last = f": {plain[-1]}" if plain else ""
        return Outcome("killed", f"mobile-watch ended with status {heard.status} before the program did{last}")
    kills, since = None, 0.0
    if run.before is not None:
        since = run.before.up_seconds
        if run.after is not None and run.after.oom_kills is not None and run.before.oom_kills is not None:
            kills = run.after.oom_kills - run.before.oom_kills
    name = command[0].rpartition("/")[2]
    return classify(
        record,
        run.outcome,
        info,
        kills,
        lambda: kill_traces(device, name, record.pid, since),
        lambda: crash_traces(device, name, since),
        plain,
    )


def _take_record(run: Run, record: ProcessRecord) -> None:
    """What mobile-watch saw, beside what the program said of itself."""
    run.seconds, run.cpu_seconds = record.seconds, record.cpu_seconds
    run.caches_dropped = record.caches_dropped
    run.peak = replace(run.peak, sampled=record.hwm_bytes, rusage=record.maxrss_bytes)
    run.peak_anon_bytes = max(record.peak_anon_bytes, run.peak_anon_bytes or 0) or None
    run.pss_bytes, run.major_faults, run.refaults = record.pss_bytes, record.major_faults, record.refaults
    run.pressure_full = record.pressure_full
    run.timeline = [[s.t, s.anon_bytes, s.file_bytes, s.swap_bytes, s.available_bytes] for s in record.samples]
