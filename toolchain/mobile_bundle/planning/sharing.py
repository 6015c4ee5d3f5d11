"""Codebooks that the layers of one projection share: their names, and which an assignment asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mobile_bundle.codecs import BlobHeader, StreamCodec
from mobile_bundle.codecs.shared_codebook import Codebook
from mobile_bundle.models import TensorSpec


def kind_of(tensor: str) -> str:
    """The tensor's name without its "layers.N."."""
    return tensor.split(".", 2)[2] if tensor.startswith("layers.") else tensor


def shared_name(tensor: str, codebook: Codebook) -> str:
    """The name of the shared codebook that this matrix uses (packed_formats.h)."""
    return f"shared.{codebook.key}.{kind_of(tensor)}"


def sharing(
    tensors: Iterable[TensorSpec], assignment: Mapping[str, StreamCodec]
) -> dict[str, tuple[Codebook, list[TensorSpec]]]:
    """The shared codebooks that an assignment asks for, by name, and the matrices that use them."""
    found: dict[str, tuple[Codebook, list[TensorSpec]]] = {}
    for tensor in tensors:
        codebook = assignment[tensor.name].shared_codebook
        if codebook:
            found.setdefault(shared_name(tensor.name, codebook), (codebook, []))[1].append(tensor)
    return found


def codebook_headers(tensors: Iterable[TensorSpec], assignment: Mapping[str, StreamCodec]) -> dict[str, BlobHeader]:
    """The blobs that they are, by name."""
    return {name: codebook.header for name, (codebook, _) in sharing(tensors, assignment).items()}
