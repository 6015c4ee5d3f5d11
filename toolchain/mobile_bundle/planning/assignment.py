"""The codec of every tensor, and the layout of the coded file: known from shapes alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mobile_bundle.codecs import StreamCodec
from mobile_bundle.container import PlannedTensor
from mobile_bundle.models import DecoderSpec, TensorSpec
from mobile_bundle.planning.recipe import Recipe, tensor_codec


def assign_codecs(tensors: Iterable[TensorSpec], spec: DecoderSpec, recipe: Recipe) -> dict[str, StreamCodec]:
    """The codec of every tensor, by name."""
    return {tensor.name: tensor_codec(recipe, spec, tensor) for tensor in tensors}


def segment_of(tensor: TensorSpec) -> str:
    """The segment of weights.ptd that holds the tensor."""
    if tensor.role == "vector":
        return "vectors"
    return tensor.role if tensor.layer < 0 else f"layers.{tensor.layer}"


def plan_weights(tensors: Iterable[TensorSpec], assignment: Mapping[str, StreamCodec]) -> list[PlannedTensor]:
    """Format and size of every tensor, in the order of the file; nothing is read. Exact, but for entropy coding."""
    return [
        PlannedTensor(
            segment_of(tensor), tensor.name, assignment[tensor.name].planned_header(tensor.rows, tensor.columns)
        )
        for tensor in tensors
    ]
