"""Codebooks that the layers of one projection share: their names, and which an assignment asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mobile_bundle.codecs import BlobHeader, Format, StreamCodec
from mobile_bundle.codecs.blob import VectorLayout
from mobile_bundle.codecs.entropy import EntropyCodec
from mobile_bundle.codecs.vptq import VptqCodec
from mobile_bundle.models import TensorSpec


def kind_of(tensor: str) -> str:
    """The tensor's name without its "layers.N."."""
    return tensor.split(".", 2)[2] if tensor.startswith("layers.") else tensor


def shared_name(tensor: str, layout: VectorLayout) -> str:
    """The name of the codebook tensor that a matrix of this layout uses (packed_formats.h)."""
    return f"shared.v{layout.length}.b{layout.index_bits}.r{layout.residual_bits}.{kind_of(tensor)}"


def sharing(
    tensors: Iterable[TensorSpec], assignment: Mapping[str, StreamCodec]
) -> dict[str, tuple[VectorLayout, list[TensorSpec]]]:
    """The shared codebooks that an assignment asks for: their layout, and the matrices that use them."""
    found: dict[str, tuple[VectorLayout, list[TensorSpec]]] = {}
    for tensor in tensors:
        codec = assignment[tensor.name]
        codec = codec.inner if isinstance(codec, EntropyCodec) and codec.inner else codec
        if isinstance(codec, VptqCodec) and codec.layout.shared:
            found.setdefault(shared_name(tensor.name, codec.layout), (codec.layout, []))[1].append(tensor)
    return found


def codebook_headers(tensors: Iterable[TensorSpec], assignment: Mapping[str, StreamCodec]) -> dict[str, BlobHeader]:
    """The blobs that they are, by name."""
    return {
        name: BlobHeader(Format.INT8, layout.entries, layout.stride)
        for name, (layout, _) in sharing(tensors, assignment).items()
    }
