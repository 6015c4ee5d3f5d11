"""Which codec each tensor gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mobile_bundle.codecs import StreamCodec, codec_by_name
from mobile_bundle.codecs.affine import AffineCodec
from mobile_bundle.codecs.blob import FIRST_STORED_FORMAT
from mobile_bundle.codecs.entropy import SUFFIX, EntropyCodec
from mobile_bundle.codecs.kept import PREFIX
from mobile_bundle.codecs.sparse_ternary import SparseTernaryCodec
from mobile_bundle.errors import ArgumentError, InputError
from mobile_bundle.models import DecoderSpec, TensorSpec

KEEP = "keep"
"""The recipe that carries over what a quantised file holds; for the matrices that no packed format holds, the default
recipe of such a model."""
_EMBEDDINGS = {
    "raw": "raw",
    "affine-8bit": "affine-8bit",
    "affine-6bit": "affine-6bit",
    "affine-5bit": "affine-5bit",
    "affine-4bit": "affine-4bit",
    "affine-3bit": "affine-4bit",
    "affine-2bit": "affine-4bit",
    "bitnet": "affine-4bit",
    "vptq-2bit": "affine-4bit",
    "bitnet-1.6bit": "affine-4bit",
    "bitnet-1.25bit": "affine-4bit",
    "seedlm-4bit": "affine-4bit",
    "seedlm-3bit": "affine-4bit",
    "hyper": "affine-4bit",
    KEEP: KEEP,
}
"""Recipe, and the codec of its embedding: every token passes through that one, so it keeps at least 4 bits."""
_LOSSLESS_TERNARY = ("bitnet", "bitnet-1.6bit")
"""Recipes that can store the body of a ternary checkpoint as it is; the others leave that to the first."""


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
    """The names that a recipe may have."""
    return list(_EMBEDDINGS)


def usable_recipes(tensors: Sequence[TensorSpec]) -> list[str]:
    """Those of recipe_names that a model with these tensors can be built with."""
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
        raise InputError("the recipe keep keeps the codes of a GGUF file; this model is not a GGUF file")
    return chosen


def tensor_codec(recipe: Recipe, spec: DecoderSpec, tensor: TensorSpec) -> StreamCodec:
    """The tensor's codec. The body of a ternary checkpoint is stored as it is, ternary, by every recipe but raw."""
    codec = _plain_codec(recipe, spec, tensor)
    return entropy_coded(codec) if recipe.entropy and tensor.role != "vector" else codec


def entropy_coded(codec: StreamCodec) -> StreamCodec:
    """The codec with the lossless stage behind it; stored forms have none."""
    return codec if codec.format >= FIRST_STORED_FORMAT else EntropyCodec(codec)


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
    if spec.ternary and recipe.body == "bitnet-1.25bit":
        return SparseTernaryCodec(exact=True)  # refuses what it cannot hold, rather than change a trained model
    if spec.ternary and recipe.body != "raw":
        return codec_by_name(recipe.body if recipe.body in _LOSSLESS_TERNARY else "bitnet")
    return fitted_codec(recipe.body, tensor.columns)


def fitted_codec(name: str, columns: int) -> StreamCodec:
    """A recipe's affine codec with a smaller group where padding the columns to its own would cost more than that.

    It depends on the columns alone, so projections that share an input share their group."""
    codec = codec_by_name(name)
    if name not in _EMBEDDINGS or not isinstance(codec, AffineCodec):
        return codec  # raw, bitnet, or a full name, which asks for exactly that group
    smaller = [AffineCodec(codec.bits, group, codec.asymmetric) for group in (32, 64, 128) if group < codec.group]
    return min([*smaller, codec], key=lambda each: each.blob_bytes(1, columns))
