"""The report's tables of bundles, and the bars that show where their bytes are."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from mobile_bundle.report.schema import BundleReport, Report
from mobile_bundle.report.text import (
    agreement_text,
    change_text,
    kl_text,
    megabytes,
    percent,
    perplexity_text,
    scrolled,
)

_PARTS = {
    "embedding": "embedding",
    "output": "output head",
    "attention": "attention",
    "mlp": "MLP",
    "vectors": "norms, biases",
    "alignment": "index, alignment",
    "tokenizer": "tokenizer",
    "runners": "runners",
    "other": "manifest, other",
}
"""Parts of a bundle (facts.split_bytes), as people call them."""


FRONT_MARK = ' <span class="on-front" title="on the Pareto front">●</span>'

_COLUMNS = (
    ("bundle", "what it is called, and its recipe"),
    ("size", "weights.ptd and tokenizer.bin"),
    ("bits per weight", "of all weights, everything included"),
    ("body", "bits per weight of the layers' projections"),
    ("embedding", "bits per weight of the embedding and the output head"),
    ("error", "||W - W'||² / ||W||² of all matrices together"),
    ("perplexity", "on the text below"),
    ("change", "of perplexity against the original"),
    ("KL", "mean divergence of its distributions from the original's, nats per token"),
    ("same best", "share of tokens at which it and the original hold the same token for the best"),
    ("peak memory", "predicted, with the context full"),
    ("anonymous", "part of the peak that cannot be dropped"),
)


def bundle_table(report: Report) -> str:
    """A row per bundle, smallest first; pressing a heading sorts by it."""
    heads = "".join(
        f'<th scope="col" title="{escape(text)}"><button class="sort" type="button">{name}</button></th>'
        for name, text in _COLUMNS
    )
    rows = "".join(_row(bundle, report.original.perplexity) for bundle in report.bundles)
    table = f'<table class="bundles"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    note = '<span class="on-front">●</span> on the Pareto front: no other bundle is as small and as good'
    return f'<section><h2>Bundles</h2>{scrolled("Table of bundles", table)}<p class="note">{note}</p></section>'


def _row(bundle: BundleReport, original: float | None) -> str:
    undefined = 1e300  # sorts last
    perplexity = undefined if bundle.perplexity is None else bundle.perplexity
    bits, close = bundle.bits_per_weight, bundle.closeness
    cells = (
        (bundle.model_bytes, megabytes(bundle.model_bytes)),
        *((bits[part], f"{bits[part]:.3f}") for part in ("all", "body", "embedding")),
        (bundle.relative_error["all"], percent(bundle.relative_error["all"])),
        (perplexity, perplexity_text(bundle.perplexity)),
        (perplexity, change_text(bundle.perplexity, original)),
        (undefined if close is None else close.kl, kl_text(close)),
        (0 if close is None else close.agreement, agreement_text(close)),
        *((bundle.predicted[key], megabytes(bundle.predicted[key])) for key in ("peak_bytes", "anon_bytes")),
    )
    recipe = "" if bundle.recipe == bundle.name else f' <span class="note">{escape(bundle.recipe)}</span>'
    name, front = escape(bundle.name), FRONT_MARK if bundle.pareto else ""
    return (
        f'<tr><th scope="row" data-value="{name}" title="{name}">{name}{front}{recipe}</th>'
        + "".join(f'<td data-value="{value}">{text}</td>' for value, text in cells)
        + "</tr>"
    )


def size_bars(report: Report) -> str:
    """For every bundle a bar of its parts, each bar as long as the others: shares, not sizes."""
    shown = [part for part in _PARTS if any(bundle.split[part] for bundle in report.bundles)]
    legend = "".join(f'<li><span class="swatch p-{part}"></span>{_PARTS[part]}</li>' for part in shown)
    rows = "".join(_bar(bundle, shown) for bundle in report.bundles)
    return (
        f'<section><h2>Where the bytes are</h2><dl class="split">{rows}</dl><ul class="legend">{legend}</ul>'
        '<p class="note">The whole bundle, with the runners of every ABI it carries; a phone needs one of them.</p>'
        "</section>"
    )


def _bar(bundle: BundleReport, shown: Sequence[str]) -> str:
    name, split = escape(bundle.name), bundle.split
    spans = "".join(
        f'<span class="p-{part}" style="flex:{split[part]}" title="{_PARTS[part]}: {megabytes(split[part])} '
        f'({split[part] / bundle.bundle_bytes:.1%})"></span>'
        for part in shown
        if split[part]
    )
    label = ", ".join(f"{_PARTS[part]} {megabytes(split[part])}" for part in shown)
    cache = f", {megabytes(bundle.installed_bytes)} more once installed" if bundle.installed_bytes else ""
    return (
        f'<dt title="{name}">{name}</dt>'
        f'<dd class="whole"><div class="bar" role="img" aria-label="{label}">{spans}</div></dd>'
        f'<dd class="size">{megabytes(bundle.bundle_bytes)}{cache}</dd>'
    )
