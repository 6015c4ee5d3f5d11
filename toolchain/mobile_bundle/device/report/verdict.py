"""The verdict: compares what was measured with the manifest's prediction, the user's budgets and an earlier report.

Programs of others are shown and not judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobile_bundle.device.measuring.cells import FULL
from mobile_bundle.device.measuring.fit import predicted_at
from mobile_bundle.device.measuring.result import Run
from mobile_bundle.device.report.results import CellResult, Check, Report
from mobile_bundle.device.transport.device_info import DeviceInfo
from mobile_bundle.report.text import megabytes

PREDICTION = 0.10
"""How far a peak may be from the manifest's prediction."""

_MAY_TAKE_LESS = ("pressure", "resume")
"""Cells whose peak may be lower than that: pages go as they come; no work space of a prompt is touched."""

AGREEMENT = 0.02
"""How far the witnesses of a peak (result.Peak) may be apart."""

LATE = 0.10
"""How far below the other witnesses the last sample may be: what the process took after it, in up to 50 ms, is missing
in it. The program reads its own peak at its end, and the kernel's account comes after it."""

_COUNTER_PAGES = 2 * 32
"""Pages per processor that a figure may be off: the kernel keeps one counter for anonymous and one for file pages, and
a processor tells of its own only when 32 have come together. It shows where a process has only a few megabytes."""

_SAMPLED_SECONDS = 1.0
"""A run must last so long for its last sample to be a witness of its peak."""

_LEAK = 0.05
"""How much anonymous memory may grow from the first quarter of a soak to its end."""


@dataclass(frozen=True)
class Budgets:
    """Limits by the user; None: none. Bytes, tokens per second, seconds."""

    max_anon: int | None = None
    max_peak: int | None = None
    min_decode: float | None = None
    max_load: float | None = None


@dataclass(frozen=True)
class Tolerances:
    """How much worse than the baseline a figure may be, as a share of it; seconds: a load that short is noise."""

    memory: float = 0.05
    speed: float = 0.15
    load: float = 0.50
    seconds: float = 0.05


def judge(
    report: Report, manifest: dict[str, Any], budgets: Budgets, context: int, answers: Mapping[str, Sequence[int]]
) -> list[Check]:
    """All checks for what has been measured so far. answers: the tokens that this machine generates, by runtime."""
    checks: list[Check] = []
    for cell in report.cells:
        if not cell.peer and cell.outcome.kind != "not-run":
            checks += _cell_checks(cell, report.device, manifest, context, answers.get(cell.runtime))
    for pair in (("long-context", "lookup"), ("save", "resume")):
        checks += _same_answer(*(report.cell("native", name) for name in pair))
    return checks + list(_budget_checks(report, budgets))


def _cell_checks(
    cell: CellResult, info: DeviceInfo | None, manifest: dict[str, Any], context: int, answer: Sequence[int] | None
) -> Iterator[Check]:
    def check(name: str, ok: bool, text: str) -> Check:
        return Check(name, cell.runtime, cell.cell, ok, text)

    if cell.outcome.kind == "not-available":
        return
    yield check("ran", cell.outcome.ok, cell.outcome.cause or f"{len(cell.runs)} of {len(cell.runs)} runs")
    whole = [run for run in cell.runs if run.outcome.ok]
    if not whole:
        return
    slack = _COUNTER_PAGES * info.page_bytes * info.cores if info is not None else 0
    yield _agreement(check, whole, slack)
    if cell.cell in FULL:
        # the manifest is about the native runner without lookup; who differs reckons with what it takes itself
        own = whole[0].predicted if cell.runtime != "native" or cell.cell == "lookup" else None
        yield from _prediction(check, cell, whole[0], own or predicted_at(manifest, context), slack)
    if cell.cell in ("cold-load", "warm-load") and answer is not None:
        same = all(run.answer == list(answer) for run in whole)
        shown = f"{len(answer)} tokens are those of this machine"
        yield check("same tokens", same, shown if same else f"other tokens than this machine's: {whole[0].answer}")
    if cell.cell == "cancel":
        stopped = whole[0].reason == "cancelled"
        shown = f"stopped {1000 * (whole[0].cancel_seconds or 0):.0f} ms after it was asked to"
        yield check("cancelled", stopped, shown if stopped else f"it went on to its end ({whole[0].reason})")
    if cell.cell == "resume":
        kept, prompt = whole[0].kept_tokens or 0, whole[0].prompt_tokens or 0
        shown = f"{kept} of {prompt} tokens were taken up in {1000 * (whole[0].state_seconds or 0):.0f} ms"
        yield check("taken up", kept == prompt - 1, shown)
    if cell.cell == "soak":
        yield _leak(check, whole[0])


def _same_answer(one: CellResult | None, other: CellResult | None) -> Iterator[Check]:
    """Lookup and states change nothing."""
    if one is None or other is None or not (one.outcome.ok and other.outcome.ok):
        return
    found = other.runs[0].answer
    expected = one.runs[0].answer[-len(found) :]
    text = f"{len(found)} tokens are those of {one.cell}" if found == expected else f"other tokens than {one.cell}'s"
    yield Check("same answer", other.runtime, other.cell, found == expected, text)


def _agreement(check: Callable[[str, bool, str], Check], runs: Sequence[Run], slack: int) -> Check:
    """Of the run whose witnesses are furthest apart. slack: bytes by which they may be in any case."""

    def spread(run: Run) -> tuple[int, int, bool]:
        """Bytes between the furthest witnesses, the highest, and whether they are too far apart."""
        ends = [value for value in (run.peak.reported, run.peak.rusage) if value is not None]
        sampled = [run.peak.sampled] if run.peak.sampled and (run.seconds or 0) >= _SAMPLED_SECONDS else []
        known = ends + sampled
        if not known:
            return 0, 0, False
        highest, allowed = max(known), max(AGREEMENT * max(known), slack)
        late = max(LATE * highest, slack) if ends else allowed
        wrong = highest - min(ends or sampled) > allowed or highest - min(known) > late
        return highest - min(known), highest, wrong

    spreads = [spread(run) for run in runs]
    apart, highest, _ = max(spreads, key=lambda one: (one[2], one[0]))
    share = apart / highest if highest else 0.0
    text = f"sampler, program and kernel are {share:.1%} apart ({megabytes(apart)} of {megabytes(highest)})"
    return check("witnesses agree", not any(wrong for *_, wrong in spreads), text)


def _prediction(
    check: Callable[[str, bool, str], Check], cell: CellResult, run: Run, predicted: dict[str, int], slack: int
) -> Iterator[Check]:
    """Peak and anonymous memory with the context full. slack: bytes that a figure may be off in any case."""
    peak, expected = run.peak.highest or 0, predicted["peak_bytes"]
    allowed = max(PREDICTION * expected, slack)
    ok = peak - expected <= allowed and (expected - peak <= allowed or cell.cell in _MAY_TAKE_LESS)
    text = f"{megabytes(peak)}, predicted {megabytes(expected)} ({peak / expected - 1:+.1%})"
    yield check("peak as predicted", ok, text)
    if cell.runtime != "native":
        return  # what a runtime keeps in its own heap is in its prediction of the peak alone
    anon, expected = run.peak_anon_bytes or 0, predicted["anon_bytes"]
    text = f"{megabytes(anon)} anonymous, predicted {megabytes(expected)} ({anon / expected - 1:+.1%})"
    yield check("anonymous as predicted", anon - expected <= max(PREDICTION * expected, slack), text)


def _leak(check: Callable[[str, bool, str], Check], run: Run) -> Check:
    """Anonymous memory at a quarter of the soak against its end."""
    rows = [float(row[1] or 0) + float(row[3] or 0) for row in run.timeline] or [0.0]
    early, late = rows[len(rows) // 4], rows[-1]
    grown = late / early - 1 if early else 0.0
    return check("does not grow", grown <= _LEAK, f"anonymous memory {grown:+.1%} from the first quarter to the end")


def _budget_checks(report: Report, budgets: Budgets) -> Iterator[Check]:
    for runtime in dict.fromkeys(cell.runtime for cell in report.cells if not cell.peer):
        cells = [cell for cell in report.cells if cell.runtime == runtime and cell.runs]
        summaries = {cell.cell: cell.summary() for cell in cells}

        def at_most(
            name: str, key: str, limit: int | None, found: dict[str, dict[str, Any]] = summaries
        ) -> Iterator[tuple[str, str, bool, str]]:
            values = {cell: row[key] for cell, row in found.items() if row[key] is not None}
            if limit is not None and values:
                cell = max(values, key=lambda cell: values[cell])
                yield name, cell, values[cell] <= limit, f"{megabytes(values[cell])}, at most {megabytes(limit)}"

        rows = [
            *at_most("--max-anon", "peak_anon_bytes", budgets.max_anon),
            *at_most("--max-peak", "peak_rss_bytes", budgets.max_peak),
        ]
        decode = summaries.get("decode", {}).get("tokens_per_second")
        if budgets.min_decode is not None and decode is not None:
            text = f"{decode.mean:.2f} tokens/s, at least {budgets.min_decode:g}"
            rows.append(("--min-decode", "decode", decode.mean >= budgets.min_decode, text))
        for name in ("cold-load", "warm-load"):
            load = summaries.get(name, {}).get("load_seconds")
            if budgets.max_load is not None and load is not None:
                text = f"{load:.3f} s, at most {budgets.max_load:g} s"
                rows.append(("--max-load", name, load <= budgets.max_load, text))
        yield from (Check(name, runtime, cell, ok, text) for name, cell, ok, text in rows)
