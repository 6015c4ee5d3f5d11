"""The codec of every tensor of a healed model."""

from __future__ import annotations

from mobile_bundle.codecs import StreamCodec, codec_by_name
from mobile_bundle.codecs.entropy import SUFFIX
from mobile_bundle.errors import ArgumentError, InputError
from mobile_bundle.healing.grids import make_grid
from mobile_bundle.models import DecoderSpec, TensorSpec
from mobile_bundle.planning.assignment import assign_codecs
from mobile_bundle.planning.recipe import Recipe

EMBEDDING = "affine-4bit-g32-sym"
"""Codec of the embedding and the output head where a recipe names none."""
RECIPES = (
    "bitnet-row",
    "bitnet",
    "bitnet-1.25bit",
    "bitnet-1.25bit-row",
    "vptq-2bit",
    "affine-2bit",
    "affine-3bit",
    "affine-4bit",
)
"""Names that a person may want; any codec that grids.py trains will do."""


def heal_recipe(name: str) -> Recipe:
    """BODY, or BODY+EMBEDDING: names of codecs. ArgumentError for a name that is not known or cannot be trained."""
    body, _, embedding = name.partition("+")
    if name.endswith(SUFFIX):
        raise ArgumentError(f"`recipe` {name!r}: entropy coding changes no weight; give it to build-mobile-bundle")
    recipe = Recipe(codec_by_name(body).name, codec_by_name(embedding or EMBEDDING).name)
    for codec in (recipe.body, recipe.embedding):
        make_grid(codec_by_name(codec), 128)
    return recipe


def heal_codecs(recipe: Recipe, spec: DecoderSpec, tensors: list[TensorSpec]) -> dict[str, StreamCodec]:
    """By tensor name, of all matrices. UserError for a recipe without body or embedding, and for a codec that cannot
    be trained."""
    if not recipe.body or not recipe.embedding:
        raise InputError(f"the recipe {recipe.name} has no body or no embedding", "healing needs both")
    matrices = [tensor for tensor in tensors if tensor.role != "vector"]
    found = assign_codecs(matrices, spec, recipe)
    for tensor in matrices:
        make_grid(found[tensor.name], tensor.columns)
    return found
