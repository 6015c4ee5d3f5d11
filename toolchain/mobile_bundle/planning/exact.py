"""Finds matrices of a checkpoint that a format holds exactly. The default recipe stores them without loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from mobile_bundle.codecs import StreamCodec, codec_by_name
from mobile_bundle.codecs.grids import find_grid
from mobile_bundle.codecs.kept import PREFIX
from mobile_bundle.errors import InputError
from mobile_bundle.models import Model, TensorSpec
from mobile_bundle.planning.recipe import Recipe
from mobile_bundle.processors import default_jobs


def exact_codecs(model: Model) -> dict[str, StreamCodec]:
    """The smallest codec of every matrix that is on a grid (codecs/grids.py), by the tensor's name.

    The body of a ternary checkpoint is left out: every recipe stores it as it is. So are matrices whose own codes are
    carried over. UserError for values that are not finite."""
    matrices = [
        tensor
        for tensor in model.tensors
        if tensor.role != "vector"
        and not (model.spec.ternary and tensor.role == "body")
        and not tensor.keep.startswith(PREFIX)
    ]
    with ThreadPoolExecutor(default_jobs()) as pool:
        found = zip(matrices, pool.map(lambda tensor: _grid(model, tensor), matrices), strict=True)
        return {tensor.name: codec for tensor, codec in found if codec is not None}


def _grid(model: Model, tensor: TensorSpec) -> StreamCodec | None:
    try:
        return find_grid(model.source(tensor))
    except ValueError as error:
        raise InputError(f"cannot code tensor {tensor.source}: {error}") from error


def kept_codecs(model: Model) -> dict[str, StreamCodec]:
    """What the recipe keep does with the matrices of a quantised file whose type it has an answer to."""
    return {tensor.name: codec_by_name(tensor.keep) for tensor in model.tensors if tensor.keep}


def lossless_codecs(model: Model) -> dict[str, StreamCodec]:
    """exact_codecs', and those of matrices whose own codes a file carries."""
    kept = kept_codecs(model)
    return exact_codecs(model) | {name: codec for name, codec in kept.items() if codec.name.startswith(PREFIX)}


def exact_line(exact: dict[str, StreamCodec]) -> str:
    """What to tell a person: how many matrices, in which formats."""
    counts = Counter(codec.name for codec in exact.values())
    formats = ", ".join(f"{count} as {name}" for name, count in counts.most_common())
    one = len(exact) == 1
    return (
        f"{len(exact)} {'matrix lies' if one else 'matrices lie'} on the grid of a packed format and "
        f"{'is' if one else 'are'} stored without loss: {formats}"
    )


def grid_line(model: Model, assignment: Mapping[str, StreamCodec]) -> str | None:
    """What to tell a person whose recipe takes more bytes than a grid that the body lies on (Falcon-E's bfloat16
    revision, TriLM: plain Llamas by their config.json); None for other models. Looks at one matrix."""
    body = next(tensor for tensor in model.tensors if tensor.role == "body")
    if model.spec.ternary or body.keep.startswith(PREFIX):
        return None
    found = _grid(model, body)
    shape = (body.rows, body.columns)
    if found is None or found.blob_bytes(*shape) >= assignment[body.name].blob_bytes(*shape):
        return None
    return (
        f"{body.name} lies on the grid of {found.name}: a build without a recipe stores such matrices without loss, in "
        f"fewer bytes than this one"
    )


def exact_recipe(recipe: Recipe, model: Model, exact: dict[str, StreamCodec]) -> Recipe:
    """The recipe under the name that the manifest gives it when it does not decide on all matrices."""
    every = all(tensor.name in exact for tensor in model.tensors if tensor.role != "vector")
    return replace(recipe, title="exact" if every else f"exact+{recipe.name}")
