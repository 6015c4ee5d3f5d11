"""The page of a report. Names come from folders, manifests and files of others: every one of them is escaped."""

from __future__ import annotations

from html import escape

from mobile_bundle.report.document import html_document, tile
from mobile_bundle.report.page_errors import error_maps
from mobile_bundle.report.page_tables import FRONT_MARK, bundle_table, size_bars
from mobile_bundle.report.pareto import Point, pareto_front
from mobile_bundle.report.plot import Mark, pareto_svg
from mobile_bundle.report.schema import Report
from mobile_bundle.report.text import change_text, counted, megabytes, parameters, perplexity_text, scrolled

_NEAR = (1.01, 1.05, 1.2)
"""How many times the original's perplexity is near it: a tile says what the smallest such bundle is."""

_SIZES = (("wide", 960, 520), ("narrow", 332, 400))
"""The plot is drawn for screens and for phones, CSS pixels; the style sheet shows one of them."""


def report_page(report: Report) -> str:
    """The whole HTML document."""
    parts = (_header, _tiles, _plot, bundle_table, size_bars, error_maps, _method)
    title = f"{report.original.name}: {counted(report.bundles, 'bundle')} compared"
    return html_document(title, "\n".join(part(report) for part in parts))


def _header(report: Report) -> str:
    original, protocol = report.original, report.protocol
    text = (
        f"{parameters(original.parameters)} parameters ({original.architecture}, {original.layers} layers) as "
        f"{counted(report.bundles, 'bundle')}, measured on {protocol.windows} windows of {protocol.context:,} tokens "
        f"of {protocol.text}"
    )
    return f"<header><h1>{escape(original.name)}</h1><p>{escape(text)}</p></header>"


def _tiles(report: Report) -> str:
    """What a person asks first: how good the original is, and how small it gets without losing much."""
    original = report.original
    text = f"perplexity of {megabytes(original.bytes)} of safetensors"
    tiles = [tile("The original", perplexity_text(original.perplexity), text)]
    shown = set()
    for limit in _NEAR:
        best = report.smallest_within(limit)
        if best is not None and best.name not in shown:
            shown.add(best.name)
            change = change_text(best.perplexity, original.perplexity)
            text = f"{best.name}: {perplexity_text(best.perplexity)} ({change})"
            tiles.append(tile(f"Smallest within {100 * (limit - 1):.0f} % of it", megabytes(best.model_bytes), text))
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


def _plot(report: Report) -> str:
    marks = [
        Mark(
            Point(bundle.name, bundle.model_bytes, bundle.perplexity),
            True,
            f"{bundle.name} ({bundle.recipe}): {megabytes(bundle.model_bytes)}, perplexity {bundle.perplexity:.3f}, "
            f"{bundle.bits_per_weight['all']:.2f} bits per weight",
        )
        for bundle in report.bundles
        if bundle.perplexity is not None
    ]
    if not marks:
        return ""
    circle, diamond = '<circle cx="6" cy="6" r="5"/>', '<path d="M6 1l5 5l-5 5l-5 -5z"/>'
    legend = _legend("ours best", circle, "bundle, on the front") + _legend(
        "ours", circle, "bundle, beaten by another point"
    )
    if report.others:
        marks += [
            Mark(point, False, f"{point.name}: {megabytes(point.bytes)}, perplexity {point.perplexity:.3f}")
            for point in report.others.points
        ]
        legend += _legend("others best", diamond, report.others.origin)
    drawings = "".join(
        pareto_svg(marks, report.original.perplexity, width, height, name) for name, width, height in _SIZES
    )
    return (
        f'<section><h2>Size against quality</h2><figure>{drawings}<ul class="legend">{legend}</ul>'
        "<figcaption>Lower and further left is better; a point is on the front, and filled, if no other is as small "
        f"and as good. Triangles at the upper edge lie above it.</figcaption></figure>{_others_table(report)}</section>"
    )


def _legend(kind: str, shape: str, text: str) -> str:
    mark = f'<svg width="12" height="12" aria-hidden="true"><g class="mark {kind}">{shape}</g></svg>'
    return f"<li>{mark}{escape(text)}</li>"


def _others_table(report: Report) -> str:
    if report.others is None:
        return ""
    points = report.others.points
    front = set(pareto_front(points))
    rows = "".join(
        f'<tr><th scope="row">{escape(points[index].name)}{FRONT_MARK if index in front else ""}</th>'
        f"<td>{megabytes(points[index].bytes)}</td><td>{points[index].perplexity:.3f}</td></tr>"
        for index in sorted(range(len(points)), key=lambda index: points[index].bytes)
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("name", "size", "perplexity"))
    table = f'<table class="heat"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    title = f"{counted(points, 'point')} of {report.others.origin}"
    return f"<details><summary>{escape(title)}</summary>{scrolled(title, table)}</details>"


def _method(report: Report) -> str:
    protocol, original = report.protocol, report.original
    rows = {
        "Perplexity": f"exp of the mean negative log-likelihood of {protocol.tokens:,} tokens: {protocol.windows} "
        f"windows of {protocol.context:,} from the start of {protocol.text}, not overlapping, all but the first token "
        f"of each; {protocol.kv} KV cache; the original by the same engine, stored as bf16",
        "Size": "weights.ptd and tokenizer.bin, which every phone stores",
        "Error": "||W - W'||² / ||W||²; where no tensor is named, over all matrices together",
        "Memory": "predicted by the engine's own arithmetic, with the bundle's default context full",
        "Text": f"{protocol.text}, sha256 {protocol.text_sha256[:16]}…",
        "Model": f"{original.name}, sha256 {original.sha256[:16]}…",
        "Machine": f"{protocol.machine}; kernels {protocol.kernels}",
        "Command": protocol.command,
        "Made by": f"mobile-bundle {report.tool_version}",
    }
    if report.others and report.others.note:
        rows[report.others.origin] = report.others.note
    text = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows.items())
    return f'<section><h2>How it was measured</h2><dl class="method">{text}</dl></section>'
