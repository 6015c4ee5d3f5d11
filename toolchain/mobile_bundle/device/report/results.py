"""A device report: runs, cells, checks. These classes are its JSON; report.schema.json beside this file is the schema.

Sizes are bytes, times seconds, rates tokens per second; null is what could not be known."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mobile_bundle.device.measuring.cells import Cell
from mobile_bundle.device.measuring.outcome import Outcome
from mobile_bundle.device.measuring.result import Run
from mobile_bundle.device.transport.device_info import DeviceInfo
from mobile_bundle.evaluate.speed import Rate

REPORT_VERSION = 1


@dataclass
class CellResult:
    """One cell of one program. The figures are over its runs: rates and times as means, memory as the highest seen.

    tokens_per_second: of decode, for the prefill cell of prefill; prompt_tokens_per_second: of the prompt, where a cell
    does both."""

    runtime: str
    peer: bool
    cell: str
    test: str
    runs: list[Run] = field(default_factory=list)
    outcome: Outcome = field(default_factory=lambda: Outcome("not-run", "its turn has not come"))

    def summary(self) -> dict[str, Any]:
        """The figures of the cell; the names are those of `bench --json`."""
        return {
            "threads": _first(run.threads for run in self.runs),
            "tokens_per_second": _rate(self._rates("prefill" if self.cell == "prefill" else "decode")),
            "prompt_tokens_per_second": None if self.cell == "prefill" else _rate(self._rates("prefill")),
            "load_seconds": _mean(run.load_seconds for run in self.runs),
            "first_token_seconds": _mean(run.first_token_seconds for run in self.runs),
            "peak_rss_bytes": _most(run.peak.highest for run in self.runs),
            "peak_anon_bytes": _most(run.peak_anon_bytes for run in self.runs),
            "major_faults": _most(run.major_faults for run in self.runs),
        }

    @property
    def rate(self) -> Rate | None:
        """The cell's own tokens per second."""
        return _rate(self._rates("prefill" if self.cell == "prefill" else "decode"))

    def _rates(self, name: str) -> list[float]:
        return [rate for run in self.runs if run.outcome.ok for rate in getattr(run, name)]


@dataclass(frozen=True)
class Check:
    """One check of the verdict. text: measured value and limit, for a person; ok None: there was nothing to judge."""

    name: str
    runtime: str
    cell: str
    ok: bool
    text: str


@dataclass
class Report:
    """What `mobile-bundle device-test` found out. label: what a reader of the figures must know of the device. refused:
    why it was not tried, or tried only by --force. error: what ended the test before its end. finished: every cell had
    its turn."""

    tool_version: str
    started: str
    command: str
    label: str
    device: DeviceInfo | None
    bundle: dict[str, Any]
    settings: dict[str, Any]
    refused: list[str] = field(default_factory=list)
    pushed_bytes: int | None = None
    cells: list[CellResult] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    error: str | None = None
    finished: bool = False
    report_version: int = REPORT_VERSION

    @property
    def passed(self) -> bool:
        """The verdict: the test came to its end and nothing missed."""
        return self.finished and self.error is None and all(check.ok for check in self.checks)

    def cell(self, runtime: str, name: str) -> CellResult | None:
        """A cell by what was measured and its name."""
        return next((c for c in self.cells if c.runtime == runtime and c.cell == name), None)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that report.schema.json describes."""
        data = asdict(self)
        checks = data.pop("checks")
        data["verdict"] = {"passed": self.passed, "checks": checks}
        for cell, plain in zip(self.cells, data["cells"], strict=True):
            runs = plain.pop("runs")
            plain.update(_plain(cell.summary()), runs=runs)
        return data

    def to_json(self) -> str:
        """The JSON document."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def new_cell(runtime: str, peer: bool, cell: Cell) -> CellResult:
    """A cell whose turn has not come."""
    return CellResult(runtime, peer, cell.name, cell.test)


def settle(cell: CellResult) -> None:
    """The cell's outcome by its runs: the first that went wrong, else ok."""
    bad = next((run.outcome for run in cell.runs if not run.outcome.ok), None)
    cell.outcome = replace(bad) if bad is not None else Outcome("ok")


def _plain(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: asdict(value) if isinstance(value, Rate) else value for name, value in summary.items()}


def _rate(rates: Sequence[float]) -> Rate | None:
    if not rates:
        return None
    return Rate(statistics.mean(rates), statistics.stdev(rates) if len(rates) > 1 else 0.0)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _most(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _first(values: Iterable[int | None]) -> int | None:
    return next((value for value in values if value is not None), None)
