"""The forms of a program that a bundle can carry beside its weights: `--formats` of build-mobile-bundle."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from mobile_bundle.export.executorch import export_executorch
from mobile_bundle.export.onnx import export_onnx

FORMATS = ("native", "executorch", "onnx")
"""native: mobile-run of every ABI; executorch: model.pte; onnx: model.onnx and, where it fits, genai_config.json."""

_BOUNDS = {"native": (0, 0), "executorch": (16 << 10, 0), "onnx": (32 << 10, 16 << 10)}


def export_programs(directory: Path, formats: Collection[str]) -> dict[str, Any]:
    """Writes the programs of `formats` beside the weights.ptd of a bundle that is being built.

    The manifest's `runtimes`: {format: {"version": of the runtime's package that the program was made with}}.
    UserError if a package is missing."""
    exporters = {"executorch": export_executorch, "onnx": export_onnx}
    return {name: {"version": exporters[name](directory)} for name in FORMATS if name in formats and name in exporters}


def program_bytes(formats: Collection[str], layers: int) -> dict[str, int]:
    """Bytes that each format's program takes at most, before it is written; formats without one are left out."""
    bounds = {name: _BOUNDS[name][0] + layers * _BOUNDS[name][1] for name in formats}
    return {name: size for name, size in bounds.items() if size}
