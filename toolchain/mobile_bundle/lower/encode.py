"""Codes a float weight of a module into a blob that the operators take."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mobile_bundle.codecs import ArraySource, StreamCodec
from mobile_bundle.codecs.entropy import SUFFIX
from mobile_bundle.errors import ArgumentError, InputError, UnsupportedError
from mobile_bundle.planning.recipe import fitted_codec


@dataclass(frozen=True)
class EncodedWeight:
    """blob: uint8 (bytes,); codec: its name; relative_error: ||W - W'||**2 / ||W||**2."""

    blob: torch.Tensor
    codec: str
    rows: int
    columns: int
    relative_error: float

    @property
    def bits_per_weight(self) -> float:
        """Exact, with header, scales and codebooks."""
        return 8 * self.blob.numel() / (self.rows * self.columns)


def operator_codec(name: str, columns: int) -> StreamCodec:
    """The codec of that name for a matrix of so many columns, as `build-mobile-bundle` would choose its group.

    UserError if it is not known, or makes nothing that an operator can compute with."""
    codec = fitted_codec(name, columns)
    if codec.rules.wraps:
        raise UnsupportedError(f"{name} is a stored form, which operators cannot compute with: drop {SUFFIX!r}")
    if installed := codec.rules.installed:
        raise UnsupportedError(
            f"{name} is a stored form, which operators cannot compute with: use {installed.codec}, which is "
            "what a bundle decodes it to when it is installed"
        )
    if not codec.rules.operator:
        raise UnsupportedError(f"there is no operator for {name}: leave the module out")
    if codec.shared_codebook:
        raise UnsupportedError(f"{name} takes its codebook from another tensor: drop '-shared'")
    return codec


def encode_weight(weight: torch.Tensor, codec: StreamCodec) -> EncodedWeight:
    """weight: (rows, columns), any floating type. UserError for values that cannot be coded."""
    if weight.is_meta:
        raise ArgumentError("the weight is on the meta device: load the checkpoint first")
    parts = bytearray()
    try:
        encoded = codec.encode_stream(ArraySource(weight.detach().to("cpu", torch.float32).numpy()), parts.extend)
    except ValueError as error:
        raise InputError(str(error)) from error
    blob = torch.frombuffer(parts, dtype=torch.uint8).clone()  # of torch's own memory, aligned to 64 bytes
    return EncodedWeight(blob, codec.name, encoded.header.rows, encoded.header.columns, encoded.relative_error)
