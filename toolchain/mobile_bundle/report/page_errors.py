"""The report's errors: a map of layers and projections for every bundle, and the list of its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from mobile_bundle.report.roles import PROJECTIONS, projection_of
from mobile_bundle.report.schema import BundleReport, Report, TensorReport
from mobile_bundle.report.text import counted, percent, scrolled

_HEAT = (1e-5, 1e-3, 1e-2, 3e-2, 0.1)
"""Relative errors from which a cell is shaded stronger."""

_USEFUL = 1.2
"""How many times the original's perplexity a bundle may have that a reader looks at first."""

_TENSOR_COLUMNS = ("tensor", "codec", "shape", "bytes", "bits per weight", "error")


def error_maps(report: Report) -> str:
    """A block per bundle; open is that of the smallest one that is still of use."""
    shown = report.smallest_within(_USEFUL) or report.bundles[-1]
    blocks = "".join(_block(bundle, bundle is shown) for bundle in report.bundles)
    return (
        "<section><h2>Error by layer and tensor</h2>"
        '<p class="note">||W - W\'||² / ||W||², found by decoding every tensor and comparing it with the checkpoint. '
        f"The darker, the larger.</p>{blocks}</section>"
    )


def _block(bundle: BundleReport, is_open: bool) -> str:
    by_name = {tensor.name: tensor for tensor in bundle.tensors}
    facts = [f"body {percent(bundle.relative_error['body'])}"]
    facts += [
        f"{title} {percent(by_name[name].error)}"
        for name, title in (("embedding.weight", "embedding"), ("output.weight", "output head"))
        if name in by_name
    ]
    different = [tensor.name for tensor in bundle.tensors if tensor.disagrees]
    undecoded = [tensor.name for tensor in bundle.tensors if tensor.undecoded]
    notes = ""
    if different:
        text = f"The manifest records another error for {counted(different, 'tensor')}: {_first(different)}"
        notes += f'<p class="bad">{escape(text)}</p>'
    if undecoded:
        text = f"{counted(undecoded, 'tensor')} could not be decoded here; shown is what the manifest records: "
        notes += f'<p class="note">{escape(text + _first(undecoded))}</p>'
    return (
        f"<details{' open' if is_open else ''}><summary>{escape(bundle.name)} "
        f'<span class="note">{", ".join(facts)}</span></summary>{notes}'
        f"{_map(bundle, by_name)}{_tensor_list(bundle)}</details>"
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def _map(bundle: BundleReport, by_name: Mapping[str, TensorReport]) -> str:
    """Layers down, projections across."""
    held = {projection_of(name) for name in by_name}
    shown = {projection: name for projection, name in PROJECTIONS.items() if projection in held}
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("layer", *shown.values(), "all"))
    rows = []
    for layer, error in enumerate(bundle.layers):
        cells = "".join(_cell(by_name.get(f"layers.{layer}.{projection}.weight")) for projection in shown)
        whole = f'<td class="h{_heat(error)}"><b>{percent(error)}</b></td>'
        rows.append(f'<tr><th scope="row">{layer}</th>{cells}{whole}</tr>')
    table = f'<table class="heat"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return scrolled(f"Errors of {bundle.name} by layer", table)


def _cell(tensor: TensorReport | None) -> str:
    """None: the layer has attention, or a convolution in its place."""
    if tensor is None:
        return "<td></td>"
    detail = f"{tensor.name}: {tensor.codec}, {tensor.bits_per_weight:.3f} bits per weight, {tensor.bytes:,} bytes"
    return f'<td class="h{_heat(tensor.error)}" title="{escape(detail)}">{percent(tensor.error)}</td>'


def _heat(error: float) -> int:
    return sum(error >= limit for limit in _HEAT)


def _tensor_list(bundle: BundleReport) -> str:
    """Every matrix, and the vectors (norms, biases) together in one row."""
    vectors = [tensor for tensor in bundle.tensors if tensor.part == "vectors"]
    rows = [
        _tensor_row(
            tensor.name,
            tensor.codec,
            f"{tensor.rows:,} x {tensor.columns:,}",
            tensor.bytes,
            tensor.bits_per_weight,
            tensor.error,
        )
        for tensor in bundle.tensors
        if tensor.part != "vectors"
    ]
    if vectors:
        weights = sum(tensor.rows * tensor.columns for tensor in vectors)
        size = sum(tensor.bytes for tensor in vectors)
        worst = max(tensor.error for tensor in vectors)
        rows.append(
            _tensor_row(counted(vectors, "vector"), vectors[0].codec, f"{weights:,}", size, 8 * size / weights, worst)
        )
    heads = "".join(f'<th scope="col">{name}</th>' for name in _TENSOR_COLUMNS)
    table = f'<table class="tensors"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return (
        f"<details><summary>All {counted(bundle.tensors, 'tensor')}</summary>"
        f"{scrolled(f'Tensors of {bundle.name}', table)}</details>"
    )


def _tensor_row(name: str, codec: str, shape: str, size: int, bits: float, error: float) -> str:
    return (
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(codec)}</td><td>{shape}</td><td>{size:,}</td>'
        f"<td>{bits:.3f}</td><td>{percent(error)}</td></tr>"
    )
