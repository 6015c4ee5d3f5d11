"""Estimates a bundle without building it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mobile_bundle.api.build import find_recipe
from mobile_bundle.corpus.languages import vocabulary_texts
from mobile_bundle.models.hub import local_model
from mobile_bundle.planning.estimate import (
    DEFAULT_BANDWIDTH,
    BundleEstimate,
    ModelShape,
    checkpoint_shape,
    estimate_bundle,
)
from mobile_bundle.planning.recipe import Recipe


def estimate(
    model: str | os.PathLike[str] | ModelShape,
    recipe: Recipe | str | os.PathLike[str],
    *,
    context: int = 0,
    kv: str = "int8",
    bandwidth: float = DEFAULT_BANDWIDTH,
    revision: str | None = None,
    vocabulary_from: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    languages: Sequence[str] = (),
) -> BundleEstimate:
    """Size, memory and speed of a bundle of that recipe: exact but for the speed, and for recipes with +entropy, of
    which the largest size is counted.

    model: a checkpoint directory, a GGUF file, a model of the hub (which is downloaded), or a ModelShape
    (planning/estimate.py: one that is open already, or the shape of a well-known model). context: tokens (0: the
    model's default). kv: type of the KV cache, "int8", "k8v4", "int4" or "f16". bandwidth: of the phone's memory, bytes
    per second. revision, vocabulary_from, languages: as `build`'s; of a ModelShape the vocabulary stays as it is.
    UserError as `build`'s."""
    texts = vocabulary_texts(vocabulary_from, languages)
    shape = model if isinstance(model, ModelShape) else checkpoint_shape(local_model(model, revision), texts)
    return estimate_bundle(shape, find_recipe(recipe), context, kv, bandwidth)
