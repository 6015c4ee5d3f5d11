"""A device test from beginning to end. The report so far is saved after every run, whatever happens."""

from __future__ import annotations

import contextlib
import datetime
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mobile_bundle.container.manifest import read_manifest, verify_files
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.device.measuring.cells import (
    ANSWER_TOKENS,
    Cell,
    Settings,
    context_of,
    in_turns,
    plan_cells,
    with_requests,
)
from mobile_bundle.device.measuring.fit import choose_abi, manifest_with, reasons_against
from mobile_bundle.device.measuring.outcome import Outcome
from mobile_bundle.device.measuring.program import SHORT_PROMPT, MeasuredProgram
from mobile_bundle.device.measuring.result import Run
from mobile_bundle.device.measuring.run import run_cell
from mobile_bundle.device.measuring.runners import available_runners
from mobile_bundle.device.measuring.stage import filling_text, stage, stored_bytes
from mobile_bundle.device.report.baseline import check_comparable, compare
from mobile_bundle.device.report.results import CellResult, Check, Report, new_cell, settle
from mobile_bundle.device.report.verdict import Budgets, Tolerances, judge
from mobile_bundle.device.transport.adb import Device
from mobile_bundle.device.transport.device_info import DeviceInfo
from mobile_bundle.device.transport.errors import DeviceTimeout, ShellFailed
from mobile_bundle.device.transport.places import DEFAULT_WORK, Places, folder_name
from mobile_bundle.device.transport.probe import probe
from mobile_bundle.device.transport.push import Progress
from mobile_bundle.errors import DeviceError, UserError, printable
from mobile_bundle.events.kinds import TokenEvent
from mobile_bundle.events.parse import read_output
from mobile_bundle.report.bundle import identity
from mobile_bundle.runtimes import bundle_argument, runner_command, runner_environment
from mobile_bundle.version import __version__

_SOAK_DEFAULT = 10
"""Repetitions of a soak where no rate of decoding is known to reckon with."""


@dataclass(frozen=True)
class Asked:
    """What to test. runtimes: of runtimes.RUNTIMES; required: whether one that is not available is a miss. label: of a
    stand-in device, "" where the device tells itself what it is. baseline: an earlier report's JSON."""

    bundle: Path
    runtimes: tuple[str, ...] = ("native",)
    required: bool = True
    settings: Settings = field(default_factory=Settings)
    budgets: Budgets = field(default_factory=Budgets)
    tolerances: Tolerances = field(default_factory=Tolerances)
    baseline: dict[str, Any] | None = None
    force: bool = False
    work: str = DEFAULT_WORK
    label: str = ""
    command: str = ""
    peers: tuple[MeasuredProgram, ...] = ()


Save = Callable[[Report], None]
Say = Callable[[str], None]


def device_test(asked: Asked, device: Device, save: Save, say: Say, progress: Progress) -> Report:
    """Tests. save: is given the report whenever there is more of it; say: a line about what goes on.

    A device that is lost, full or silent ends the test and is the report's error; it is not raised. UserError for a
    bundle or a baseline that is no good."""
    manifest = read_manifest(asked.bundle)
    verify_files(asked.bundle, manifest)
    if asked.settings.kv != "int8":
        with WeightsReader(asked.bundle / "weights.ptd") as weights:
            manifest = manifest_with(manifest, weights.config, asked.settings.kv)
    test = _Test(asked, device, manifest, save, say, progress)
    try:
        test.run()
    except DeviceError as error:
        test.report.error = str(error)
        test.judge()
    save(test.report)
    return test.report


class _Test:
    def __init__(
        self, asked: Asked, device: Device, manifest: dict[str, Any], save: Save, say: Say, progress: Progress
    ) -> None:
        self._asked, self._device, self._manifest = asked, device, manifest
        self._save, self._say, self._progress = save, say, progress
        self._context = context_of(asked.settings, manifest)
        self._answers: dict[str, list[int]] = {}
        self._extra: list[Check] = []
        self.report = Report(
            tool_version=__version__,
            started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            command=asked.command,
            label=asked.label,
            device=None,
            bundle=_bundle_entry(asked.bundle, manifest),
            settings={**asdict(asked.settings), "context": self._context, "budgets": asdict(asked.budgets)},
        )

    def run(self) -> None:
        """Everything, in order. Raises DeviceError where the device ends it."""
        self._device.connect()
        info = probe(self._device, self._asked.work)
        self.report.device, self.report.label = info, self._asked.label or info.label
        if self._asked.baseline is not None:
            check_comparable(self._asked.baseline, self.report)
        abi = choose_abi(self._manifest, info)
        places = Places(self._asked.work, abi or "", folder_name(self._asked.bundle.resolve().name))
        there = stored_bytes(self._device, self._manifest, places)
        self.report.refused = reasons_against(self._manifest, info, self._context, there)
        if self.report.refused and (abi is None or not self._asked.force):
            self._extra.append(Check("fits", "native", "", False, "; ".join(self.report.refused)))
            self.judge()
            self.report.finished = True
            return
        assert abi is not None
        programs = self._programs(abi, info)
        text = filling_text(self._asked.bundle, self._context)
        cells = plan_cells(self._asked.settings, self._manifest, info)
        todo = self._plan(programs, [with_requests(cell, text, places.state) for cell in cells])
        self._save(self.report)
        self._say(f"{info.model}, {info.system}: pushing changed files to {self._asked.work}")
        self.report.pushed_bytes = stage(
            self._device, self._asked.bundle, self._manifest, places, programs, text, self._progress
        )
        self._answers = _host_answers(self._asked.bundle, self._asked.runtimes, self._asked.settings)
        self._measure(info, places, todo)
        self.report.finished = True
        self.judge()

    def _programs(self, abi: str, info: DeviceInfo) -> list[MeasuredProgram]:
        """The runtimes that there are, and the peers; of those that there are not the report says why."""
        asked = self._asked
        found, missing = available_runners(
            asked.bundle, self._manifest, asked.runtimes, abi, info, asked.settings, asked.force
        )
        for runtime, why in missing.items():
            self.report.cells.append(CellResult(runtime, False, "", "", outcome=Outcome("not-available", why)))
            if self._asked.required:
                self._extra.append(Check("available", runtime, "", False, why))
        return [*found, *self._asked.peers]

    def _plan(
        self, programs: Sequence[MeasuredProgram], cells: Sequence[Cell]
    ) -> list[tuple[MeasuredProgram, Cell, CellResult, int]]:
        """Every run in its order, with the cell that it belongs to."""
        pairs = []
        places = Places("", "", "")  # only whether there is a command matters here
        for cell in cells:
            for program in programs:
                if program.command(cell, places, 1) is not None:
                    result = new_cell(program.name, program.peer, cell)
                    self.report.cells.append(result)
                    pairs.append((program, cell, result))
        return [(*pair, number) for pair, number in in_turns(pairs, lambda pair: pair[1].runs)]

    def _measure(
        self, info: DeviceInfo, places: Places, todo: Sequence[tuple[MeasuredProgram, Cell, CellResult, int]]
    ) -> None:
        warm: set[str] = set()  # the programs whose files are in the device's memory
        for program, cell, result, number in todo:
            timed, repetitions = self._soak(program, cell)
            command = program.command(cell, places, repetitions)
            assert command is not None
            try:
                if cell.name == "warm-load" and program.name not in warm:
                    run_cell(self._device, info, places, program, timed, number, command)
                run = run_cell(self._device, info, places, program, timed, number, command)
                warm = {program.name} if cell.drop_caches else {*warm, program.name}
            except (DeviceTimeout, ShellFailed) as error:
                run = Run(number, Outcome(error.code, str(error)))
            except DeviceError as error:
                result.runs.append(Run(number, Outcome(error.code, str(error))))
                settle(result)
                raise
            result.runs.append(run)
            settle(result)
            self._say(_line(result, cell, run))
            self.judge()
            self._save(self.report)

    def _soak(self, program: MeasuredProgram, cell: Cell) -> tuple[Cell, int]:
        """A soak is one process that decodes for about so long: by what this program's decode cell has shown."""
        if cell.name != "soak":
            return cell, 1
        seconds = self._asked.settings.soak_seconds
        decode = self.report.cell(program.name, "decode")
        rate = decode.rate if decode is not None else None
        repetitions = round(seconds * rate.mean / cell.tokens) if rate is not None else _SOAK_DEFAULT
        return replace(cell, timeout=cell.timeout + 3 * seconds), min(max(repetitions, 2), 1000)

    def judge(self) -> None:
        """The verdict on what there is so far."""
        own = judge(self.report, self._manifest, self._asked.budgets, self._context, self._answers)
        checks = [*self._extra, *own]
        if self._asked.baseline is not None and self.report.device is not None:
            checks += compare(self._asked.baseline, self.report, self._asked.tolerances)
        self.report.checks = checks


def _bundle_entry(bundle: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": printable(bundle.resolve().name),
        "model": manifest["model"]["name"],
        "recipe": manifest["recipe"],
        "parameters": manifest["model"]["parameters"],
        "bytes": manifest["bytes"],
        "sha256": identity(manifest),
        "predicted": manifest["predicted"],
    }


def _host_answers(bundle: Path, runtimes: Sequence[str], settings: Settings) -> dict[str, list[int]]:
    """{runtime: the tokens that this machine answers the load cells' prompt with}, of those that it can run."""
    answers = {}
    for runtime in runtimes:
        with contextlib.suppress(UserError, OSError, subprocess.TimeoutExpired):
            command = [*runner_command(bundle, runtime), "generate", bundle_argument(bundle), "--prompt", SHORT_PROMPT]
            command += ["--max-new-tokens", str(ANSWER_TOKENS), "--ignore-eos", "--json"]
            command += ["--kv", settings.kv] if runtime == "native" else []
            process = subprocess.run(
                command, capture_output=True, stdin=subprocess.DEVNULL, timeout=settings.timeout,
                env=runner_environment(runtime),
            )  # fmt: skip
            if process.returncode == 0:
                answers[runtime] = _answer(process.stdout)
    return answers


def _answer(output: bytes) -> list[int]:
    return [event.id for event in read_output(output) if isinstance(event, TokenEvent) and event.id >= 0]


def _line(result: CellResult, cell: Cell, run: Run) -> str:
    """What a run came to, for a person who waits."""
    turn = f" {run.number + 1}/{cell.runs}" if cell.runs > 1 else ""
    if not run.outcome.ok:
        return f"{result.runtime}, {result.test}{turn}: {run.outcome.kind}: {run.outcome.cause}"
    parts = [f"load {run.load_seconds:.3f} s"] if run.load_seconds is not None else []
    parts += [f"prefill {run.prefill[0]:.1f} tokens/s"] if run.prefill else []
    parts += [f"decode {run.decode[0]:.1f} tokens/s"] if run.decode else []
    parts.append(f"peak {(run.peak.highest or 0) / 1e6:.1f} MB, {(run.peak_anon_bytes or 0) / 1e6:.1f} MB anonymous")
    return f"{result.runtime}, {result.test}{turn}: {', '.join(parts)}"
