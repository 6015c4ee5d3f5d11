"""A report for the terminal: what the device is, a table of cells, the verdict."""

from __future__ import annotations

from mobile_bundle.device.report.results import CellResult, Report
from mobile_bundle.evaluate.speed import Rate
from mobile_bundle.report.text import megabytes

_HEADS = ("runtime", "test", "t/s", "prompt t/s", "load s", "first token s", "peak RSS", "anon+swap", "majflt", "ended")


def report_lines(report: Report) -> list[str]:
    """The lines to print."""
    lines = []
    if report.device is not None:
        info = report.device
        lines.append(
            f"{info.model}, {info.system}, {', '.join(info.abis)}, {info.cores} cores, "
            f"{megabytes(info.memory_bytes)} of memory ({megabytes(info.available_bytes)} available)"
        )
    if report.label:
        lines.append(f"label: {report.label}")
    lines += [f"{'refused' if not report.pushed_bytes else 'tried by --force'}: {why}" for why in report.refused]
    if report.cells:
        lines += _table([_HEADS, *map(_row, report.cells)])
    lines += [
        f"missed: {_where(check.runtime, check.cell)}{check.name}: {check.text}"
        for check in report.checks
        if not check.ok
    ]
    if report.error:
        lines.append(f"ended early: {report.error}")
    kept = sum(check.ok for check in report.checks)
    lines.append(f"verdict: {'passed' if report.passed else 'MISSED'}, {kept} of {len(report.checks)} checks kept")
    return lines


def _where(runtime: str, cell: str) -> str:
    return f"{runtime} {cell}: " if cell else f"{runtime}: "


def _row(cell: CellResult) -> tuple[str, ...]:
    row = cell.summary()
    return (
        cell.runtime,
        cell.test,
        rate_text(row["tokens_per_second"]),
        rate_text(row["prompt_tokens_per_second"]),
        seconds_text(row["load_seconds"]),
        seconds_text(row["first_token_seconds"]),
        "" if row["peak_rss_bytes"] is None else megabytes(row["peak_rss_bytes"]),
        "" if row["peak_anon_bytes"] is None else megabytes(row["peak_anon_bytes"]),
        "" if row["major_faults"] is None else f"{row['major_faults']:,}",
        cell.outcome.kind if cell.runs else cell.outcome.cause or cell.outcome.kind,
    )


def rate_text(rate: Rate | None) -> str:
    """As llama-bench prints it, with four digits at most; a single measurement has no deviation."""
    if rate is None:
        return ""
    digits = 2 if rate.mean < 100 else 1 if rate.mean < 1000 else 0
    return f"{rate.mean:.{digits}f} ± {rate.sd:.{digits}f}" if rate.sd else f"{rate.mean:.{digits}f}"


def seconds_text(seconds: float | None) -> str:
    """Milliseconds are enough."""
    return "" if seconds is None else f"{seconds:.3f}"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    left = {0, 1, len(_HEADS) - 1}
    return [
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
