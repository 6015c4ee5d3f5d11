"""A device test as one HTML page, for a screen or a phone, light or dark, in the frame of the other reports.

Whatever a device, a bundle or a log says is escaped."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib import resources

from mobile_bundle.device.measuring.cells import FULL
from mobile_bundle.device.measuring.result import Run
from mobile_bundle.device.report.results import CellResult, Check, Report
from mobile_bundle.device.report.table import rate_text, seconds_text
from mobile_bundle.device.report.timeline import timeline_svg
from mobile_bundle.report.document import html_document, tile
from mobile_bundle.report.text import megabytes, parameters, scrolled

_SIZES = (("wide", 960, 240), ("narrow", 332, 200))
"""A timeline is drawn for screens and for phones, CSS pixels; the style sheet shows one of them."""

_COLUMNS = (
    ("program", "the runtime, or whose program it is"),
    ("test", "what was run"),
    ("tokens/s", "mean and standard deviation over fresh processes"),
    ("prompt tokens/s", "of the prompt, where a test does both"),
    ("load, s", "from the start of the process until a token could be fed"),
    ("first token, s", "from the start of the process"),
    ("peak memory", "VmHWM: the highest resident set, file pages included"),
    ("anonymous", "the highest RssAnon + VmSwap: what cannot be dropped"),
    ("major faults", "pages that had to be read from storage"),
    ("ended", "how"),
)


def device_page(report: Report) -> str:
    """The whole HTML document; also of a report that is not finished."""
    parts = (_header, _banner, _tiles, _cells, _verdict, _timelines, _device, _method)
    title = f"{report.bundle['name']} on {report.device.model if report.device else 'a device'}"
    style = resources.files("mobile_bundle.device.report").joinpath("page.css").read_text("utf-8")
    return html_document(title, "\n".join(part(report) for part in parts), style)


def _header(report: Report) -> str:
    bundle, info = report.bundle, report.device
    text = f"{parameters(bundle['parameters'])} parameters, {bundle['recipe']}, {megabytes(bundle['bytes'])}"
    if info is not None:
        text += f", on {info.model} ({info.system}, {info.cores} cores, {megabytes(info.memory_bytes)} of memory)"
    label = f"<p><strong>{escape(report.label)}</strong></p>" if report.label else ""
    return f"<header><h1>{escape(bundle['name'])}</h1><p>{escape(text)}</p>{label}</header>"


def _banner(report: Report) -> str:
    """What a reader must not overlook."""
    how = "Tried by --force, although" if report.pushed_bytes is not None else "Refused:"
    lines = [f"{how} {why}" for why in report.refused]
    lines += [f"Ended early: {report.error}"] if report.error else []
    if not report.finished and not report.error:
        lines.append("This test is not finished.")
    text = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f'<section class="banner">{text}</section>' if lines else ""


def _tiles(report: Report) -> str:
    tiles = []
    kept = sum(check.ok for check in report.checks)
    verdict = '<span class="kept">passed</span>' if report.passed else '<span class="bad">missed</span>'
    tiles.append(tile("Verdict", verdict, f"{kept} of {len(report.checks)} checks kept"))
    # of one runtime, the native one where it was run: the manifest's prediction is about that one
    runtime = next((cell.runtime for cell in report.cells if not cell.peer and cell.runs), "")
    own = [cell for cell in report.cells if cell.runtime == runtime and cell.runs]
    predicted = report.bundle["predicted"]
    for title, key, prediction in (
        ("Peak memory", "peak_rss_bytes", predicted["peak_bytes"]),
        ("Anonymous", "peak_anon_bytes", predicted["anon_bytes"]),
    ):
        values = [(cell.summary()[key], cell.test) for cell in own if cell.summary()[key] is not None]
        if values:
            most, test = max(values)
            text = f"{runtime}, in {test}"
            if runtime == "native":
                text += f"; predicted {megabytes(prediction)} at {predicted['context']:,} tokens"
            tiles.append(tile(title, megabytes(most), text))
    for title, name, unit in (("Decode", "decode", "tokens/s"), ("Prefill", "prefill", "tokens/s")):
        cell = next((cell for cell in own if cell.cell == name and cell.rate is not None), None)
        if cell is not None and cell.rate is not None:
            tiles.append(tile(title, f"{cell.rate.mean:.1f}", f"{unit}, {cell.test}, {cell.runtime}"))
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


def _cells(report: Report) -> str:
    if not report.cells:
        return ""
    heads = "".join(f'<th scope="col" title="{escape(text)}">{name}</th>' for name, text in _COLUMNS)
    rows = "".join(map(_cell_row, report.cells))
    table = f'<table class="cells"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    return f"<section><h2>What was run</h2>{scrolled('Table of tests', table)}</section>"


def _cell_row(cell: CellResult) -> str:
    row = cell.summary()
    sizes = ["" if row[key] is None else megabytes(row[key]) for key in ("peak_rss_bytes", "peak_anon_bytes")]
    faults = "" if row["major_faults"] is None else f"{row['major_faults']:,}"
    ended = escape(cell.outcome.cause or cell.outcome.kind)
    cells = (
        escape(cell.test),
        rate_text(row["tokens_per_second"]),
        rate_text(row["prompt_tokens_per_second"]),
        seconds_text(row["load_seconds"]),
        seconds_text(row["first_token_seconds"]),
        *sizes,
        faults,
        ended if cell.outcome.ok or not cell.runs else f'<span class="missed">{ended}</span>',
    )
    kind = ' class="peer"' if cell.peer else ""
    return (
        f'<tr{kind}><th scope="row">{escape(cell.runtime)}</th>'
        + "".join(f"<td>{text}</td>" for text in cells)
        + "</tr>"
    )


def _verdict(report: Report) -> str:
    if not report.checks:
        return ""
    missed = [check for check in report.checks if not check.ok]
    kept = [check for check in report.checks if check.ok]
    parts = [_checks_table("Checks missed", missed)] if missed else []
    if kept:
        table = _checks_table("Checks kept", kept)
        parts.append(f"<details><summary>{len(kept)} of {len(report.checks)} checks kept</summary>{table}</details>")
    return f"<section><h2>Verdict</h2>{''.join(parts)}</section>"


def _checks_table(title: str, checks: list[Check]) -> str:
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("check", "program", "test", "", ""))
    rows = "".join(map(_check_row, checks))
    return scrolled(title, f'<table class="words"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>')


def _check_row(check: Check) -> str:
    mark = '<span class="kept">kept</span>' if check.ok else '<span class="missed">missed</span>'
    return (
        f'<tr><th scope="row">{escape(check.name)}</th><td>{escape(check.runtime)}</td><td>{escape(check.cell)}</td>'
        f"<td>{mark}</td><td>{escape(check.text)}</td></tr>"
    )


def _timelines(report: Report) -> str:
    """One drawing per cell: of the run that went wrong, else of the one with the highest peak."""
    drawings = "".join(_timeline(report, index, cell) for index, cell in enumerate(report.cells) if cell.runs)
    if not drawings:
        return ""
    legend = "".join(
        f'<li><span class="swatch {name}"></span>{text}</li>'
        for name, text in (("anon", "anonymous and swapped"), ("file", "file-backed, may be dropped"))
    )
    return f'<section class="runs"><h2>Memory over time</h2><ul class="legend">{legend}</ul>{drawings}</section>'


def _timeline(report: Report, index: int, cell: CellResult) -> str:
    run = next((run for run in cell.runs if not run.outcome.ok), None)
    run = run or max(cell.runs, key=lambda run: run.peak.highest or 0)
    full = cell.cell in FULL and not cell.peer
    predicted = run.predicted["peak_bytes"] if full and run.predicted else run.predicted_peak_bytes
    drawings = "".join(timeline_svg(run, predicted, width, height, kind, f"t{index}") for kind, width, height in _SIZES)
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in _notes(run))
    traces = f"<pre>{escape(chr(10).join(run.outcome.evidence))}</pre>" if run.outcome.evidence else ""
    figure = f"<figure>{drawings}</figure>" if drawings else '<p class="note">It was over before its second sample.</p>'
    return f"<h3>{escape(cell.runtime)}, {escape(cell.test)}</h3>{figure}{notes}{traces}"


def _notes(run: Run) -> Iterator[str]:
    if not run.outcome.ok:
        yield f"{run.outcome.kind}: {run.outcome.cause}"
    if run.caches_dropped is not None:
        yield (
            "The page cache was dropped first."
            if run.caches_dropped
            else "The page cache could not be dropped (no root): this load is not cold."
        )
    if run.cancel_seconds is not None:
        yield f"It stopped {1000 * run.cancel_seconds:.0f} ms after it was cancelled, including the time over adb."
    if run.state_seconds is not None:
        yield f"Saving its state, or taking one up, took {1000 * run.state_seconds:.0f} ms."
    if run.before is not None and run.before.zones and run.after is not None:
        zones = [
            f"{name} {run.before.zones[name]:.0f} to {degrees:.0f} °C"
            for name, degrees in run.after.zones.items()
            if name in run.before.zones
        ]
        yield f"Temperatures: {', '.join(zones[:6])}"
    if run.before is not None and run.before.clocks_khz and run.after is not None:
        before, after = (max(s.clocks_khz, default=0) / 1e6 for s in (run.before, run.after))
        yield f"Fastest clock before and after: {before:.2f} and {after:.2f} GHz"
    yield from run.notes


def _device(report: Report) -> str:
    info = report.device
    if info is None:
        return ""
    clusters = [f"{len(cluster.processors)} at up to {cluster.max_khz / 1e6:.2f} GHz" for cluster in info.clusters]
    low_ram = {None: "not told", True: "yes", False: "no"}[info.low_ram]
    rows = {
        "Device": f"{info.model} at {info.serial}",
        "System": f"{info.system}, Linux {info.kernel} on {info.machine}",
        "Runs": ", ".join(info.abis),
        "Processor": f"{info.processor}, {info.cores} cores" + (f": {', '.join(clusters)}" if clusters else ""),
        "Features": " ".join(info.features),
        "Memory": f"{megabytes(info.memory_bytes)}, {megabytes(info.available_bytes)} available; swap "
        f"{megabytes(info.swap_bytes)}, of it zram {megabytes(info.zram_bytes)}; pages of {info.page_bytes} bytes",
        "Low-RAM device": low_ram,
        "Storage": f"{megabytes(info.free_bytes)} free in the work folder",
        "Root": "yes" if info.root else "no",
        "Thermal zones": ", ".join(f"{name} {degrees:.0f} °C" for name, degrees in info.thermal_zones.items())
        or "none",
    }
    rows.update(info.lmk)
    return f"<section><h2>The device</h2>{_list(rows)}</section>"


def _method(report: Report) -> str:
    rows = {
        "Processes": "every run is a fresh process; repeated tests take turns, every other round backwards",
        "Memory": "mobile-watch reads /proc at 20 Hz; VmHWM and ru_maxrss are the kernel's own, exact peaks",
        "Speed": "pp and tg as llama-bench counts them, without tokenising and sampling; mean ± standard deviation",
        "Prediction": f"the manifest's, at {report.bundle['predicted']['context']:,} tokens of context",
        "Bundle": f"{report.bundle['model']}, sha256 {report.bundle['sha256'][:16]}…",
        "Command": report.command,
        "Begun": report.started,
        "Made by": f"mobile-bundle {report.tool_version}",
    }
    return f"<section><h2>How it was measured</h2>{_list(rows)}</section>"


def _list(rows: dict[str, str]) -> str:
    text = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows.items())
    return f'<dl class="method">{text}</dl>'
