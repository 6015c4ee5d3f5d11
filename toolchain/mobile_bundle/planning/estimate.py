"""Estimates a bundle without building it: every size follows from the shapes and the recipe.

The shapes in shapes.json need no checkpoint: published configurations, of which only what decides on sizes and on what
is computed is kept. They have the published number of weights. The size of the tokenizer in a bundle was measured for
Qwen2.5's 151,665 tokens and for Gemma 3's; others have the same 22 bytes per token as Qwen2.5's."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mobile_bundle.codecs.installed import cache_bytes, installed_header, is_stored
from mobile_bundle.container.weights import WeightsLayout
from mobile_bundle.files.work_folder import scratch_folder
from mobile_bundle.models import DecoderSpec, TensorSpec, open_model
from mobile_bundle.models.config import Config
from mobile_bundle.models.names import tensors as decoder_tensors
from mobile_bundle.models.registry import ARCHITECTURES, architecture
from mobile_bundle.native.constraint import most_form_bytes
from mobile_bundle.native.engine import estimate_memory
from mobile_bundle.native.programs import runner_paths
from mobile_bundle.planning.assignment import assign_codecs, plan_weights
from mobile_bundle.planning.memory import PredictedMemory, mapped_weights, predict_memory
from mobile_bundle.planning.recipe import Recipe, resolve_recipe
from mobile_bundle.tokenizer.compile import compile_tokenizer
from mobile_bundle.vocabulary import smaller_tokenizer

DEFAULT_BANDWIDTH = 4e9
"""Bytes per second that the memory of a phone with Cortex-A53 cores delivers: the middle of the 3 to 5 GB/s that are
assumed for that class; it was not measured here. A Raspberry Pi 5 delivers 10."""


_TOKENIZER_BYTES = 22
"""Of a tokenizer, per token."""


@dataclass(frozen=True)
class ModelShape:
    """What an estimate is of. tokenizer_bytes: of tokenizer.bin; form_bytes: as PredictedMemory has it; parameters: a
    tied head counts once."""

    name: str
    spec: DecoderSpec
    tensors: Sequence[TensorSpec]
    tokenizer_bytes: int
    form_bytes: int | None = None

    @property
    def parameters(self) -> int:
        return sum(tensor.rows * tensor.columns for tensor in self.tensors if tensor.source)


@dataclass(frozen=True)
class BundleEstimate:
    """bytes: of the bundle without its manifest; cache_bytes: what installing adds on the phone's flash for tensors
    that are stored in coded form. bits_per_weight: of the weight blobs, as the manifest has it. predicted: with the
    weights mapped whole, as the manifest has it; layers_peak_bytes: the peak with `--mapping layers`. bytes_per_token:
    what decoding one token reads, with the context full; tokens_per_second: bandwidth / bytes_per_token, an upper bound
    that supposes that the weights stay in RAM. Sizes are exact, but for entropy-coded tensors, of which the largest
    size is counted."""

    model: str
    parameters: int
    recipe: str
    bytes: int
    cache_bytes: int
    bits_per_weight: float
    predicted: PredictedMemory
    layers_peak_bytes: int
    min_device_ram_gb: int
    bytes_per_token: int
    tokens_per_second: float


@functools.cache
def _shapes() -> dict[str, dict[str, Any]]:
    shapes: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("shapes.json").read_text("utf-8"))
    return shapes


def shape_names() -> list[str]:
    """The shapes that need no checkpoint, from the smallest to the largest."""
    return list(_shapes())


def published_config(name: str) -> dict[str, Any]:
    """The configuration of the published shape of that name. KeyError if there is none."""
    config: dict[str, Any] = _shapes()[name]["config"]
    return config


def published_shape(name: str) -> ModelShape:
    """The published shape of that name. KeyError if there is none."""
    shape = _shapes()[name]
    spec = ARCHITECTURES[architecture(shape["config"])](Config(shape["config"]))
    tokenizer = shape.get("tokenizer_bytes", _TOKENIZER_BYTES * spec.vocabulary)
    return ModelShape(shape["name"], spec, decoder_tensors(spec, "model."), tokenizer)


def checkpoint_shape(model_dir: str | os.PathLike[str], texts: Sequence[str] = ()) -> ModelShape:
    """The shape of a checkpoint directory or a GGUF file; with texts, of what is left when the vocabulary is theirs.
    UserError as build_bundle's."""
    with open_model(model_dir) as model:
        if texts:
            with scratch_folder() as folder:
                reduction = smaller_tokenizer(Path(model_dir), texts, "", folder / "model")
            rows = len(reduction.rows)
            tensors = [
                replace(tensor, rows=rows) if tensor.role in ("embedding", "output") else tensor
                for tensor in model.tensors
            ]
            spec = replace(model.spec, vocabulary=rows)
            return ModelShape(spec.name, spec, tensors, reduction.tokenizer_bytes, reduction.form_bytes)
        tokenizer = compile_tokenizer(Path(model_dir), model.checkpoint.config)
        forms = most_form_bytes(tokenizer.data, model.spec.vocabulary)
        return ModelShape(model.spec.name, model.spec, model.tensors, len(tokenizer.data), forms)


def estimate_bundle(
    shape: ModelShape,
    recipe: Recipe | str | None,
    context: int = 0,
    kv_type: str = "int8",
    bandwidth: float = DEFAULT_BANDWIDTH,
) -> BundleEstimate:
    """context: in tokens; 0: the bundle's default. bandwidth: of the phone's memory, bytes per second.

    UserError for a recipe that is not known."""
    spec = shape.spec
    chosen = resolve_recipe(recipe, spec, shape.tensors)
    assignment = assign_codecs(shape.tensors, spec, chosen)
    planned = plan_weights(shape.tensors, assignment)
    weights = WeightsLayout(planned).file_bytes
    headers = {tensor.name: tensor.header for tensor in planned}
    inner = {
        tensor.name: codec.packed.planned_header(tensor.rows, tensor.columns)
        for tensor in shape.tensors
        if (codec := assignment[tensor.name]).rules.wraps
    }
    installed = [
        (name, installed_header(header, inner.get(name)).blob_bytes)
        for name, header in headers.items()
        if is_stored(header)
    ]
    mapped = mapped_weights(headers, weights, inner)
    config, tokenizer = spec.to_config_bytes(), shape.tokenizer_bytes
    predicted = predict_memory(config, mapped.touched, tokenizer, context, kv_type, shape.form_bytes)
    layered = predict_memory(config, mapped.layered, tokenizer, context, kv_type)
    per_token = mapped.touched + estimate_memory(config, predicted.context, kv_type=kv_type).kv_bytes
    return BundleEstimate(
        shape.name,
        shape.parameters,
        chosen.name,
        weights + tokenizer + sum(path.stat().st_size for path in runner_paths().values()),
        cache_bytes(installed),
        8 * sum(header.blob_bytes for header in headers.values()) / shape.parameters,
        predicted,
        layered.peak_bytes,
        predicted.min_device_ram_gb,
        per_token,
        bandwidth / per_token,
    )
