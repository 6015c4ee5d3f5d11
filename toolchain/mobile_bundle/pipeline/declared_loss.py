"""What a recipe by name costs: the last line of a build that was not measured.

The default recipe is measured on the model itself, and a plan predicts. A recipe that somebody names is neither, and
measuring it would take longer than coding. So the line says what the recipe cost on a small chat model."""

from __future__ import annotations

from collections.abc import Sequence

from mobile_bundle.models import DecoderSpec, TensorSpec
from mobile_bundle.pipeline.parts import TensorRecord
from mobile_bundle.planning.recipe import Recipe

_MODEL = "SmolLM2-135M"
_TIMES = {
    "affine-6bit": 1.03,
    "affine-5bit": 1.17,
    "affine-4bit": 1.67,
    "affine-3bit": 6.8,
    "affine-2bit": 17_000,
    "trellis-3bit": 7.6,
    "trellis-2.5bit": 250,
    "trellis-2bit": 7_500,
    "vptq-2bit": 88_000,
    "bitnet": 11_000_000,
    "bitnet-1.6bit": 11_000_000,
    "bitnet-1.25bit": 720_000,
    "hyper": 1.2,
}
"""Perplexity of SmolLM2-135M-Instruct, off the grid of its GGUF, coded data-free, divided by the original's: `eval` on
the first two windows of 1,024 tokens of Wikipedia text (22.49 for the original). docs/RECIPES.md has the table."""
_TRAINED = {"bitnet": "ternary", "bitnet-1.6bit": "ternary", "bitnet-1.25bit": "sparse ternary"}
_GIBBERISH = 10
_EXACT = 1e-4
"""Mean relative error of the body below which nothing is lost that a reader would see."""


def declared_loss(
    recipe: Recipe, calibrated: bool, spec: DecoderSpec, tensors: Sequence[TensorSpec], records: Sequence[TensorRecord]
) -> str | None:
    """The line for a build by that recipe; None where it loses little, holds the body without loss, was calibrated, or
    nobody knows. records: of what was coded."""
    times, body = _TIMES.get(recipe.body, 1.0), {tensor.name for tensor in tensors if tensor.role == "body"}
    coded = [record for record in records if record.name in body]
    weights = sum(record.rows * record.columns for record in coded)
    error = sum(record.relative_error * record.rows * record.columns for record in coded) / weights
    if spec.ternary or recipe.overrides or times <= 1 or error < _EXACT:
        return None
    if calibrated and recipe.body not in _TRAINED:
        return None
    cost = f"{100 * (times - 1):.0f} % higher" if times < 2 else f"{times:,} times as high"
    cost = f"with it {_MODEL}'s perplexity is {cost}"
    if recipe.body in _TRAINED:
        what = f"{recipe.body} is for models trained {_TRAINED[recipe.body]}, and this one was not"
        return f"{what}: expect gibberish ({cost})"
    what = "expect gibberish" if times >= _GIBBERISH else "what it costs this model was not measured"
    return f"{recipe.body} without `calibration`: {what} ({cost})"
