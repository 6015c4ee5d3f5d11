"""Recipes: which codec each tensor gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mobile_bundle.codecs import StreamCodec, codec_by_name
from mobile_bundle.codecs.entropy import SUFFIX
from mobile_bundle.codecs.kept import PREFIX
from mobile_bundle.codecs.registry import RECIPE_EMBEDDINGS, entropy_coded
from mobile_bundle.errors import ArgumentError, InputError
from mobile_bundle.models import DecoderSpec, TensorSpec

KEEP = "keep"
"""The recipe that carries over what a quantised file holds; for the matrices that no packed format holds, the default
recipe of such a model."""
_EMBEDDINGS = {**RECIPE_EMBEDDINGS, KEEP: KEEP}
"""Recipe, and the codec of its embedding."""


@dataclass(frozen=True)
class Recipe:
    """body: codec of the projections; embedding: of the embedding and of the output head. Vectors are float32.

    overrides: (pattern of tensor names, codec) that come first; title: of a recipe file (recipe_file.py), whose body
    and embedding may be "", for the planner to choose. entropy: matrices are stored entropy-coded where that is
    smaller, and decoded once, at install."""

    body: str
    embedding: str
    overrides: tuple[tuple[str, str], ...] = ()
    title: str = ""
    entropy: bool = False

    @property
    def name(self) -> str:
        """The title, else `body`, or `body+embedding` where that codec is not the recipe's own; then `+entropy`."""
        own = _EMBEDDINGS.get(self.body) == self.embedding
        name = self.title or (self.body if own else f"{self.body}+{self.embedding}")
        return name + SUFFIX * self.entropy


def recipe_names() -> list[str]:
    """The names of all recipes."""
    return list(_EMBEDDINGS)


def usable_recipes(tensors: Sequence[TensorSpec]) -> list[str]:
    """Names of the recipes that can build a model with these tensors."""
    return [name for name in recipe_names() if name != KEEP or any(tensor.stored for tensor in tensors)]


def named_recipe(name: str, embedding: str | None = None) -> Recipe:
    """The recipe of that name; `embedding` (or "name+embedding") overrides the codec of embedding and output head.

    UserError for a name that is not known."""
    body, plus, asked = name.removesuffix(SUFFIX).partition("+")
    if body not in _EMBEDDINGS:
        raise ArgumentError(f"unknown recipe {name!r}; known: {', '.join(_EMBEDDINGS)}")
    chosen = embedding or (asked if plus else _EMBEDDINGS[body])
    if chosen != KEEP:
        codec_by_name(chosen)
    return Recipe(body, chosen, entropy=name.endswith(SUFFIX))


def default_recipe(spec: DecoderSpec) -> Recipe:
    """What is used without a recipe: BitNet ternary as trained with an 8-bit embedding, everything else at 4 bits."""
    return named_recipe("bitnet", "affine-8bit") if spec.ternary else named_recipe("affine-4bit")


def resolve_recipe(recipe: Recipe | str | None, spec: DecoderSpec, tensors: Sequence[TensorSpec]) -> Recipe:
    """A recipe, its name, or None for the model's default: `keep` for a file with matrices that can be carried over.

    UserError for a name that is not known, and for `keep` where there is nothing to keep."""
    if recipe is None:
        quantised = any(tensor.keep.startswith(PREFIX) for tensor in tensors)
        return named_recipe(KEEP) if quantised else default_recipe(spec)
    chosen = named_recipe(recipe) if isinstance(recipe, str) else recipe
    if KEEP in (chosen.body, chosen.embedding) and not any(tensor.stored for tensor in tensors):
        raise InputError("the recipe keep needs a GGUF file, whose codes it keeps; this model is not one")
    return chosen


def tensor_codec(recipe: Recipe, spec: DecoderSpec, tensor: TensorSpec) -> StreamCodec:
    """The tensor's codec. The body of a ternary checkpoint is stored as it is, ternary, by every recipe but raw."""
    codec = _plain_codec(recipe, spec, tensor)
    return entropy_coded(codec) if recipe.entropy and tensor.role != "vector" else codec


def _plain_codec(recipe: Recipe, spec: DecoderSpec, tensor: TensorSpec) -> StreamCodec:
    if tensor.role == "vector":
        return codec_by_name("f32")
    for pattern, name in recipe.overrides:
        if fnmatchcase(tensor.name, pattern):
            return codec_by_name(name)
    if (recipe.embedding if tensor.role in ("embedding", "output") else recipe.body) == KEEP:
        return codec_by_name(tensor.keep) if tensor.keep else _plain_codec(default_recipe(spec), spec, tensor)
    if tensor.role in ("embedding", "output"):
        return fitted_codec(recipe.embedding, tensor.columns)
    if spec.ternary:
        asked = codec_by_name(recipe.body).trained_ternary() if recipe.body else None
        return asked or codec_by_name("bitnet")
    return fitted_codec(recipe.body, tensor.columns)


def fitted_codec(name: str, columns: int) -> StreamCodec:
    """A codec by its name, as a recipe takes it for so many columns (StreamCodec.fitted). UserError for an unknown
    name."""
    return codec_by_name(name).fitted(columns)
