"""What the engine must know of a decoder: mb_model_config (weights_index.h), and the tensors that it needs."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import InputError
from mobile_bundle.models import limits

ACTIVATIONS = {"silu": 1, "relu2": 2}  # mb_activation
FLAG_INT8_ACTIVATIONS = 1  # MB_MODEL_INT8_ACTIVATIONS
MAX_EOS = 8
CONFIG_BYTES = 256
DEFAULT_CONTEXT = 2048
_CONFIG = struct.Struct("<11IfiI8iI64s100s")
assert _CONFIG.size == CONFIG_BYTES


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the model. role: "vector", "embedding", "output" or "body"; layer: -1 outside the layers.

    stored, keep: of a matrix in a quantised file, its type there, and the codec that `--recipe keep` carries it over
    with ("" for the default recipe's)."""

    name: str
    source: str
    role: str
    rows: int
    columns: int
    layer: int = -1
    stored: str = ""
    keep: str = ""


@dataclass(frozen=True)
class DecoderSpec:
    """A decoder-only transformer: RMS norm, rotary positions, grouped-query attention, gated feed-forward.

    inverse_frequencies: float32 (head_dim / 2,), radians per position. sliding_window 0: every position is seen.
    tied: the embedding is the output head. ternary: BitNet b1.58, projections are ternary and see int8 activations.
    qk_norm, sub_norms, *_bias: which optional tensors exist.
    """

    architecture: str
    name: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    context: int
    sliding_window: int
    activation: str
    norm_epsilon: float
    tied: bool
    inverse_frequencies: NDArray[np.float32]
    ternary: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sub_norms: bool = False
    bos: int = -1
    eos: tuple[int, ...] = ()

    @property
    def default_context(self) -> int:
        """Positions of a session that asks for none."""
        return min(self.context, DEFAULT_CONTEXT)

    def with_tokens(self, bos: int, eos: tuple[int, ...]) -> DecoderSpec:
        """The same decoder with the tokenizer's BOS (-1: none) and end tokens, at most MAX_EOS."""
        return replace(self, bos=bos, eos=eos)

    def to_config_bytes(self) -> bytes:
        """mb_model_config, 256 bytes. UserError for a model beyond the limits of weights.ptd."""
        problem = limits.problem(self)
        if problem:
            raise InputError(f"the model cannot be stored: {problem}")
        eos = self.eos[:MAX_EOS]
        return _CONFIG.pack(
            FLAG_INT8_ACTIVATIONS if self.ternary else 0,
            self.vocabulary,
            self.hidden,
            self.layers,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.feed_forward,
            self.context,
            self.sliding_window,
            ACTIVATIONS[self.activation],
            self.norm_epsilon,
            self.bos,
            len(eos),
            *eos,
            *[0] * (MAX_EOS - len(eos)),
            self.default_context,
            _short(self.name, 63),
            bytes(100),
        )


@dataclass(frozen=True)
class ModelConfig:
    """mb_model_config of a weights.ptd: what a runtime knows of the model without its tensors. bos -1: none."""

    ternary: bool
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    context: int
    sliding_window: int
    activation: str
    norm_epsilon: float
    bos: int
    eos: tuple[int, ...]
    default_context: int
    name: str

    @staticmethod
    def parse(data: bytes) -> ModelConfig:
        """From its 256 bytes, as a WeightsReader gives them. ValueError for an unknown activation or a size
        beyond the limits."""
        fields = _CONFIG.unpack(data)
        activations = {number: name for name, number in ACTIVATIONS.items()}
        if fields[10] not in activations:
            raise ValueError(f"unknown activation {fields[10]}; made by a newer version?")
        config = ModelConfig(
            ternary=bool(fields[0] & FLAG_INT8_ACTIVATIONS),
            vocabulary=fields[1],
            hidden=fields[2],
            layers=fields[3],
            heads=fields[4],
            kv_heads=fields[5],
            head_dim=fields[6],
            feed_forward=fields[7],
            context=fields[8],
            sliding_window=fields[9],
            activation=activations[fields[10]],
            norm_epsilon=fields[11],
            bos=fields[12],
            eos=tuple(fields[14 : 14 + min(fields[13], MAX_EOS)]),
            default_context=fields[22],
            name=fields[23].split(b"\0", 1)[0].decode("utf-8", "replace"),
        )
        problem = limits.problem(config)
        if problem:
            raise ValueError(problem)
        return config


def _short(text: str, limit: int) -> bytes:
    """UTF-8 of at most `limit` bytes, cut between characters."""
    return text.encode("utf-8", "replace").replace(b"\0", b"?")[:limit].decode("utf-8", "ignore").encode("utf-8")
