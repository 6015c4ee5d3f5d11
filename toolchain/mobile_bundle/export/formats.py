"""Programs of other runtimes that a bundle can carry beside its weights."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from mobile_bundle.export.executorch import export_executorch
from mobile_bundle.export.onnx import export_onnx

FORMATS = ("native", "executorch", "onnx")
"""native: mobile-run of every ABI; executorch: model.pte; onnx: model.onnx and genai_config.json."""

_BOUNDS = {"executorch": 16 << 10, "onnx": 16 << 10}


def export_programs(directory: Path, formats: Collection[str], recipe: str) -> dict[str, Any]:
    """Writes the programs of `formats` beside the weights.ptd of a bundle that is being built with `recipe`.

    The manifest's `runtimes`: {format: {"version": of the runtime's package that the program was made with}}.
    UserError if a package is missing."""
    versions = {}
    if "executorch" in formats:
        versions["executorch"] = export_executorch(directory)
    if "onnx" in formats:
        versions["onnx"] = export_onnx(directory, recipe)
    return {name: {"version": version} for name, version in versions.items()}


def program_bytes(formats: Collection[str]) -> dict[str, int]:
    """Bytes that each format's program takes at most, before it is written; formats without one are left out."""
    return {name: _BOUNDS[name] for name in formats if name in _BOUNDS}
