"""What a bundle would take, without building it: every size is known from the shapes and the recipe."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mobile_bundle.build.pipeline import mapped_weights
from mobile_bundle.build.recipe import Recipe, resolve_recipe
from mobile_bundle.build.weights import plan_weights
from mobile_bundle.container.weights import WeightsLayout
from mobile_bundle.models import open_model
from mobile_bundle.native import runner_paths
from mobile_bundle.plan.memory import PredictedMemory, predict_memory
from mobile_bundle.tokenizer.compile import compile_tokenizer


@dataclass(frozen=True)
class BundleEstimate:
    """bytes: of the bundle without its manifest; bits_per_weight: of the weight blobs, as the manifest has it."""

    recipe: str
    bytes: int
    bits_per_weight: float
    predicted: PredictedMemory
    min_device_ram_gb: int


def estimate_bundle(
    model_dir: str | os.PathLike[str], recipe: Recipe | str | None, context: int = 0, kv_type: str = "int8"
) -> BundleEstimate:
    """context 0: the bundle's default. UserError as build_bundle's."""
    with open_model(model_dir) as model:
        chosen = resolve_recipe(recipe, model.spec)
        planned = plan_weights(model, model.spec, chosen)
        weights = WeightsLayout(planned).file_bytes
        tokenizer = len(compile_tokenizer(Path(model_dir), model.checkpoint.config).data)
        blobs = {tensor.name: tensor.header.blob_bytes for tensor in planned}
        mapped = mapped_weights(model.spec, weights, blobs)
        predicted = predict_memory(model.spec.to_config_bytes(), mapped, tokenizer, context, kv_type)
        runners = sum(path.stat().st_size for path in runner_paths().values())
        bits = 8 * sum(blobs.values()) / model.parameters
        return BundleEstimate(chosen.name, weights + tokenizer + runners, bits, predicted, predicted.min_device_ram_gb)
