"""`quantize_`: the nn.Linear and nn.Embedding of a model, swapped in place for modules with packed weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from mobile_bundle.errors import ArgumentError, UserError
from mobile_bundle.lower.encode import EncodedWeight, encode_weight, operator_codec
from mobile_bundle.lower.modules import CompressedEmbedding, CompressedLinear, check_embedding, float_bias
from mobile_bundle.planning.recipe import named_recipe

Filter = Callable[[nn.Module, str], bool]
Layer = nn.Linear | nn.Embedding


@dataclass(frozen=True)
class Swapped:
    """What became of a module. relative_error: ||W - W'||**2 / ||W||**2; bits_per_weight: header, scales and codebooks
    included; blob_bytes: of the packed weight, which tied modules share."""

    codec: str
    bits_per_weight: float
    relative_error: float
    blob_bytes: int


@dataclass(frozen=True)
class _Place:
    """A layer, and where it hangs."""

    parent: nn.Module
    attribute: str
    name: str
    layer: Layer


def quantize_(model: nn.Module, recipe: str | Mapping[str, str], filter_fn: Filter | None = None) -> dict[str, Swapped]:
    """Swaps every nn.Linear and nn.Embedding for a CompressedLinear or CompressedEmbedding and says, by module name,
    what each became.

    recipe: the name of a recipe, such as "affine-4bit" or "bitnet+affine-8bit": embeddings,
    and linear layers that share their weight or are the model's get_output_embeddings(), get the embedding's codec,
    other linear layers the body's. Or a mapping of patterns of module names to names of codecs, the first that matches
    counts: {"*.down_proj": "affine-8bit", "layers.*": "affine-2bit"}; modules that no pattern matches stay as they are.

    filter_fn(module, name): False leaves a module as it is, for XNNPACK for instance.

    Only nn.Linear and nn.Embedding themselves are swapped, never subclasses, whose forward may do more. Tied weights
    stay tied: they are coded once and share one blob. Weights of any floating type and device are coded from float32;
    the result is on the CPU and takes float32. Nothing is swapped if this raises UserError: for an unknown recipe,
    codec or a pattern without a match, for codes that operators cannot compute with (the message names the one to use),
    for weights that are not finite."""
    places = [p for p in _places(model) if filter_fn is None or filter_fn(p.layer, p.name)]
    codec_names = _by_recipe(model, places, recipe) if isinstance(recipe, str) else _by_pattern(places, recipe)
    if not codec_names:
        raise ArgumentError("the model has no nn.Linear or nn.Embedding that was selected")
    encoded = _encode(places, codec_names)
    replacements: dict[tuple[int, str], nn.Module] = {}  # a layer may hang in several places
    for place in places:
        if place.name in encoded:
            weight = encoded[place.name]
            key = id(place.layer), weight.codec
            if key not in replacements:
                replacements[key] = _replacement(place.layer, weight.blob)
            setattr(place.parent, place.attribute, replacements[key])
    return {
        name: Swapped(weight.codec, weight.bits_per_weight, weight.relative_error, weight.blob.numel())
        for name, weight in encoded.items()
    }


def _places(model: nn.Module) -> Iterator[_Place]:
    if type(model) in (nn.Linear, nn.Embedding):
        raise ArgumentError("the model is a single layer, which cannot be swapped in place: put it into a module")
    for prefix, parent in model.named_modules():
        for attribute, child in parent._modules.items():
            if type(child) is nn.Linear or type(child) is nn.Embedding:
                yield _Place(parent, attribute, f"{prefix}.{attribute}" if prefix else attribute, child)


def _by_recipe(model: nn.Module, places: list[_Place], recipe: str) -> dict[str, str]:
    """Module name to codec name."""
    chosen = named_recipe(recipe)
    if chosen.entropy:
        raise ArgumentError(f"{recipe} is a stored form, which operators cannot compute with: drop '+entropy'")
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    output = getattr(model, "get_output_embeddings", lambda: None)()
    return {
        p.name: chosen.embedding if id(p.layer.weight) in embeddings or p.layer is output else chosen.body
        for p in places
    }


def _by_pattern(places: list[_Place], patterns: Mapping[str, str]) -> dict[str, str]:
    """Module name to codec name. UserError for a pattern that matches nothing, which is a mistake."""
    for pattern in patterns:
        if not any(fnmatchcase(p.name, pattern) for p in places):
            raise ArgumentError(f"pattern {pattern!r} matches no nn.Linear or nn.Embedding of the model")
    matches = {p.name: [codec for pattern, codec in patterns.items() if fnmatchcase(p.name, pattern)] for p in places}
    return {name: codecs[0] for name, codecs in matches.items() if codecs}


def _encode(places: list[_Place], codec_names: Mapping[str, str]) -> dict[str, EncodedWeight]:
    """Module name to coded weight; one for all that share weight and codec."""
    done: dict[tuple[int, str], EncodedWeight] = {}
    encoded: dict[str, EncodedWeight] = {}
    for place in places:
        if place.name not in codec_names:
            continue
        weight = place.layer.weight
        try:
            if isinstance(place.layer, nn.Embedding):
                check_embedding(place.layer)
            codec = operator_codec(codec_names[place.name], weight.shape[1])
            key = id(weight), codec.name
            if key not in done:
                done[key] = encode_weight(weight, codec)
        except UserError as error:
            raise type(error)(f"{place.name}: {error.message}", error.remedy) from error
        encoded[place.name] = done[key]
    return encoded


def _replacement(layer: Layer, blob: torch.Tensor) -> nn.Module:
    return CompressedLinear(blob, float_bias(layer)) if isinstance(layer, nn.Linear) else CompressedEmbedding(blob)
