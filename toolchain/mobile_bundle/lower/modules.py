"""nn.Linear and nn.Embedding with a packed weight."""

from __future__ import annotations

import torch
from torch import nn

from mobile_bundle.codecs.blob import BlobHeader
from mobile_bundle.errors import UnsupportedError
from mobile_bundle.lower.encode import encode_weight, operator_codec
from mobile_bundle.lower.ops import EMBEDDING, LINEAR, NAMESPACE


class _Compressed(nn.Module):
    """blob: uint8 (bytes,), a buffer; modules may share one."""

    blob: torch.Tensor

    def __init__(self, blob: torch.Tensor) -> None:
        super().__init__()
        self._header = BlobHeader.parse(blob[:64].numpy().data)
        self.register_buffer("blob", blob)

    def _describe(self) -> str:
        bits = 8 * self._header.blob_bytes / (self._header.rows * self._header.columns)
        return f"format={self._header.format.name.lower()}, bits_per_weight={bits:.3f}"


class CompressedLinear(_Compressed):
    """y = x W^T + bias: float32 (..., in_features) to float32 (..., out_features), on the CPU, without gradient.

    blob: uint8 (bytes,), one packed weight (rows are out_features); bias: float32 (out_features,) or None."""

    bias: torch.Tensor | None

    def __init__(self, blob: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__(blob)
        if self._header.format not in LINEAR:
            raise UnsupportedError(f"there is no linear operator for format {self._header.format.name}")
        self.in_features, self.out_features = self._header.columns, self._header.rows
        self._operator = LINEAR[self._header.format]
        self.register_buffer("bias", bias)

    @classmethod
    def from_linear(cls, linear: nn.Linear, codec: str) -> CompressedLinear:
        """codec: a name as `quantize_` takes it. UserError for one that no operator computes with."""
        encoded = encode_weight(linear.weight, operator_codec(codec, linear.in_features))
        return cls(encoded.blob, float_bias(linear))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        operator = getattr(getattr(torch.ops, NAMESPACE), self._operator)
        result: torch.Tensor = operator(x, self.blob, self.out_features, self.bias)
        return result

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            + self._describe()
        )


class CompressedEmbedding(_Compressed):
    """Rows of a packed matrix: int64 (...) to float32 (..., embedding_dim), on the CPU, without gradient.

    blob: uint8 (bytes,), one packed weight (rows are num_embeddings)."""

    def __init__(self, blob: torch.Tensor) -> None:
        super().__init__(blob)
        self.num_embeddings, self.embedding_dim = self._header.rows, self._header.columns

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding, codec: str) -> CompressedEmbedding:
        """codec: a name as `quantize_` takes it. UserError for one that no operator computes with, and for max_norm,
        which changes the weight at run time."""
        check_embedding(embedding)
        return cls(encode_weight(embedding.weight, operator_codec(codec, embedding.embedding_dim)).blob)

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        operator = getattr(getattr(torch.ops, NAMESPACE), EMBEDDING)
        result: torch.Tensor = operator(self.blob, indices, self.embedding_dim)
        return result

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, " + self._describe()


def float_bias(linear: nn.Linear) -> torch.Tensor | None:
    """A copy of the bias, float32 (out_features,), on the CPU; None where there is none."""
    return None if linear.bias is None else linear.bias.detach().to("cpu", torch.float32, copy=True)


def check_embedding(embedding: nn.Embedding) -> None:
    """UserError for an embedding that does more than look rows up."""
    if embedding.max_norm is not None:
        raise UnsupportedError(
            "an embedding with max_norm changes its weight at run time: leave it out, or unset max_norm"
        )
