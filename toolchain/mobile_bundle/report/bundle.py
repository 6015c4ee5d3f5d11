"""One bundle's entry of a report, from its manifest, its tensors' errors and its perplexity."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mobile_bundle.container.manifest import NAME as MANIFEST
from mobile_bundle.report.errors import TensorError
from mobile_bundle.report.roles import BODY, PARTS, layer_of, part_of
from mobile_bundle.report.schema import BundleReport, Closeness, TensorReport

_EMBEDDINGS = ("embedding", "output")


def identity(manifest: dict[str, Any]) -> str:
    """Of the weights and the tokenizer together: everything that errors and perplexity depend on."""
    files = manifest["files"]
    both = files["weights.ptd"]["sha256"] + files["tokenizer.bin"]["sha256"]
    return hashlib.sha256(both.encode("ascii")).hexdigest()


def split_bytes(manifest: dict[str, Any], manifest_bytes: int) -> dict[str, int]:
    """Bytes of the whole bundle by part: PARTS, "alignment" (index and gaps of weights.ptd), "tokenizer", "runners" (of
    all ABIs together), "other" (the manifest and what else there is)."""
    files = {name: int(file["bytes"]) for name, file in manifest["files"].items()}
    split = dict.fromkeys(PARTS, 0)
    for tensor in manifest["tensors"]:
        split[part_of(tensor["name"])] += tensor["bytes"]
    split["alignment"] = files["weights.ptd"] - sum(split.values())
    split["tokenizer"] = files["tokenizer.bin"]
    split["runners"] = sum(size for name, size in files.items() if name.startswith("bin/"))
    rest = sum(files.values()) - files["weights.ptd"] - split["tokenizer"] - split["runners"]
    split["other"] = rest + manifest_bytes
    return split


def bundle_report(
    path: Path,
    name: str,
    manifest: dict[str, Any],
    errors: Mapping[str, TensorError],
    perplexity: float | None,
    closeness: Closeness | None,
) -> BundleReport:
    """errors: by tensor, of those that the checkpoint has. Whether it is on the Pareto front is not known here."""
    files = manifest["files"]
    tensors = [_tensor(tensor, errors.get(tensor["name"])) for tensor in manifest["tensors"]]
    body = [tensor for tensor in tensors if tensor.part in BODY]
    split = split_bytes(manifest, (path / MANIFEST).stat().st_size)
    cache = path / "weights.cache"
    return BundleReport(
        name=name,
        recipe=manifest["recipe"],
        sha256=identity(manifest),
        model_bytes=files["weights.ptd"]["bytes"] + files["tokenizer.bin"]["bytes"],
        installed_bytes=cache.stat().st_size if cache.exists() else 0,
        bundle_bytes=sum(split.values()),
        split=split,
        bits_per_weight={
            "all": manifest["bits_per_weight"],
            "body": _bits(tensors, BODY),
            "embedding": _bits(tensors, _EMBEDDINGS),
        },
        relative_error={
            "all": _summed_error(tensor for tensor in tensors if tensor.part != "vectors"),
            "body": _summed_error(body),
            "embedding": _summed_error(tensor for tensor in tensors if tensor.part in _EMBEDDINGS),
        },
        perplexity=perplexity,
        closeness=closeness,
        predicted=dict(manifest["predicted"]),
        min_device_ram_gb=manifest["min_device_ram_gb"],
        layers=[
            _summed_error(tensor for tensor in body if tensor.layer == layer)
            for layer in range(manifest["model"]["layers"])
        ],
        tensors=tensors,
    )


def _tensor(tensor: dict[str, Any], error: TensorError | None) -> TensorReport:
    return TensorReport(
        name=tensor["name"],
        part=part_of(tensor["name"]),
        layer=layer_of(tensor["name"]),
        codec=tensor["codec"],
        format=tensor["format"],
        rows=tensor["rows"],
        columns=tensor["columns"],
        bytes=tensor["bytes"],
        bits_per_weight=tensor["bits_per_weight"],
        recorded_error=tensor["relative_error"],
        squared_weight=error.squared_weight if error is not None else None,
        squared_error=error.squared_error if error is not None else None,
    )


def _bits(tensors: Sequence[TensorReport], parts: Sequence[str]) -> float:
    """8 * bytes of the blobs, shared codebooks included, / weights of the matrices."""
    chosen = [tensor for tensor in tensors if tensor.part in parts]
    weights = sum(tensor.rows * tensor.columns for tensor in chosen if tensor.squared_weight is not None)
    return 8 * sum(tensor.bytes for tensor in chosen) / weights


def _summed_error(tensors: Iterable[TensorReport]) -> float:
    """||W - W'||**2 / ||W||**2 over several tensors together."""
    error = total = 0.0
    for tensor in tensors:
        if tensor.squared_weight is not None:
            exact = tensor.squared_error
            error += tensor.recorded_error * tensor.squared_weight if exact is None else exact
            total += tensor.squared_weight
    return error / total if total > 0 else 0.0
