"""What a tensor is in a decoder, by its name (models/names.py): the parts that sizes and errors are summed over."""

from __future__ import annotations

import re

PARTS = ("embedding", "output", "attention", "mlp", "vectors")
"""Parts of weights.ptd that hold weights, in the order they are shown."""

BODY = ("attention", "mlp")
"""The projections of the layers."""

PROJECTIONS = {
    "attention.query": "query",
    "attention.key": "key",
    "attention.value": "value",
    "attention.output": "output",
    "conv.input": "convolution",
    "conv.output": "its output",
    "mlp.gate": "gate",
    "mlp.up": "up",
    "mlp.down": "down",
}
"""Projections that a layer can have, and what they are called in a table."""

_LAYER = re.compile(r"layers\.(\d+)\.(.+)")


def layer_of(name: str) -> int | None:
    """The layer of a tensor; None outside the layers."""
    match = _LAYER.fullmatch(name)
    return int(match[1]) if match else None


def projection_of(name: str) -> str | None:
    """A key of PROJECTIONS, such as attention.query; None for every other tensor, biases and norms included."""
    match = _LAYER.fullmatch(name)
    stem = match[2].removesuffix(".weight") if match else ""
    return stem if stem in PROJECTIONS else None


def part_of(name: str) -> str:
    """One of PARTS. A codebook that layers share ("shared.v4.b10.r0.mlp.up.weight") counts to the part that uses it."""
    if name in ("embedding.weight", "output.weight"):
        return name.removesuffix(".weight")
    stem = projection_of(name) or (name.split(".", 4)[-1] if name.startswith("shared.") else "")
    part = stem.partition(".")[0].replace("conv", "attention")  # in whose place it stands
    return part if part in BODY else "vectors"
