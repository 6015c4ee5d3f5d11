"""Programs of other runtimes that a bundle can carry beside its weights."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from mobile_bundle.errors import UnsupportedError
from mobile_bundle.export.executorch import export_executorch
from mobile_bundle.export.onnx import export_onnx
from mobile_bundle.models import DecoderSpec

FORMATS = ("native", "executorch", "onnx")
"""native: mobile-run of every ABI; executorch: model.pte; onnx: model.onnx and, where it fits, genai_config.json."""

_BOUNDS = {"native": (0, 0), "executorch": (16 << 10, 0), "onnx": (32 << 10, 16 << 10)}


def check_formats(formats: Collection[str], spec: DecoderSpec) -> None:
    """UnsupportedError for a format that cannot have the model, before any work is done for it."""
    if "onnx" in formats and spec.convolution_layers:
        raise UnsupportedError(
            f"model.onnx cannot have the layers with a short convolution of a {spec.architecture}",
            "leave onnx out of `formats`",
        )


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


def program_bytes(formats: Collection[str], layers: int) -> dict[str, int]:
    """Bytes that each format's program takes at most, before it is written; formats without one are left out."""
    bounds = {name: _BOUNDS[name][0] + layers * _BOUNDS[name][1] for name in formats}
    return {name: size for name, size in bounds.items() if size}
