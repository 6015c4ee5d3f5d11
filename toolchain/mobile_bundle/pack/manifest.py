"""The manifest of a packed bundle: it describes the files that come out of the ZIP, not those that went in."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mobile_bundle.codecs.blob import BlobHeader
from mobile_bundle.codecs.entropy import SUFFIX
from mobile_bundle.container.manifest import sha256
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.planning.memory import mapped_weights


def without_files(manifest: Mapping[str, Any], dropped: Collection[str]) -> dict[str, Any]:
    """The manifest of the bundle without these files."""
    out = copy.deepcopy(dict(manifest))
    out["files"] = {name: facts for name, facts in out["files"].items() if name not in dropped}
    out["bytes"] = sum(file["bytes"] for file in out["files"].values())
    return out


def with_coded_weights(
    manifest: Mapping[str, Any], before: Path, after: Path, coded: Mapping[str, BlobHeader]
) -> dict[str, Any]:
    """The manifest of the bundle with the weights `after` in place of `before`. coded: what is entropy-coded now."""
    out = copy.deepcopy(dict(manifest))
    out["recipe"] += SUFFIX
    out["files"]["weights.ptd"] = {"bytes": after.stat().st_size, "sha256": sha256(after)}
    out["bytes"] = sum(file["bytes"] for file in out["files"].values())
    for tensor in out["tensors"]:
        header = coded.get(tensor["name"])
        if header is not None:
            tensor["format"] = header.format.name.lower()
            tensor["bytes"] = header.blob_bytes
            tensor["bits_per_weight"] = 8 * header.blob_bytes / (tensor["rows"] * tensor["columns"])
        if header is not None or tensor["name"] in _matrices(manifest):
            tensor["codec"] += SUFFIX
    out["bits_per_weight"] = 8 * sum(tensor["bytes"] for tensor in out["tensors"]) / out["model"]["parameters"]
    grown = _touched_bytes(after) - _touched_bytes(before)
    for name in ("file_bytes", "peak_bytes"):
        out["predicted"][name] += grown
    return out


def _matrices(manifest: Mapping[str, Any]) -> set[str]:
    """Names of the tensors that entropy coding is tried on."""
    stored = ("f32", "int8", "base3", "seedlm", "lattice", "entropy")
    return {tensor["name"] for tensor in manifest["tensors"] if tensor["format"] not in stored}


def _touched_bytes(weights: Path) -> int:
    """What generating text reads of a weights.ptd, installed."""
    with WeightsReader(weights) as reader:
        entries = sorted(reader.entries, key=lambda entry: entry.offset)
        packed = {entry.name: reader.packed_header(entry.name) for entry in entries}
        return mapped_weights({entry.name: entry.header for entry in entries}, reader.file_bytes, packed).touched
