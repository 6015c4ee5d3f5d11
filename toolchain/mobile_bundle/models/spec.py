"""What the engine must know of a decoder: mb_model_config (weights_index.h), and the tensors that it needs."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import InputError
from mobile_bundle.models import limits

ACTIVATIONS = {"silu": 1, "relu2": 2, "gelu_tanh": 3}  # mb_activation
FLAG_INT8_ACTIVATIONS = 1  # MB_MODEL_INT8_ACTIVATIONS
FLAG_NO_INPUT_NORMS = 2
FLAG_OUTPUT_NORMS = 4
FLAG_WIDE_QK_NORMS = 8
FLAG_LATE_QK_NORMS = 16
FLAG_WINDOW_ROPE = 32
_FLAGS = 63
MAX_EOS = 8
CONFIG_BYTES = 256
DEFAULT_CONTEXT = 2048
_CONFIG = struct.Struct("<11IfiI8iI64s4fI16s16s16sI2f20s")
assert _CONFIG.size == CONFIG_BYTES


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the model. role: "vector", "embedding", "output" or "body"; layer: -1 outside the layers.

    stored, keep: of a matrix in a quantised file, its type there, and the codec that `--recipe keep` carries it over
    with ("" for the default recipe's).
    first_row, source_rows: where `source` holds several of our matrices, the first of this one's rows in it, and how
    many it has; source_rows 0: it holds this one alone. pairs: rows of a head whose neighbours are rotated together,
    which become rows half a head apart; 0: they are. plus, times: the values are (stored + plus) * times. taps: of a
    convolution, which the source holds channel by channel (channels, 1, taps), and we tap by tap."""

    name: str
    source: str
    role: str
    rows: int
    columns: int
    layer: int = -1
    stored: str = ""
    keep: str = ""
    first_row: int = 0
    source_rows: int = 0
    pairs: int = 0
    plus: float = 0.0
    times: float = 1.0
    taps: int = 0


@dataclass(frozen=True)
class DecoderSpec:
    """A decoder-only transformer: RMS norm, rotary positions, grouped-query attention, gated feed-forward.

    inverse_frequencies: float32 (rotary_dim / 2,), radians per position; window_frequencies: the same for layers with a
    window, None if they have no table of their own. sliding_window 0: every position is seen; full_layers: those that
    see every position all the same. tied: the embedding is the output head. ternary: BitNet b1.58, projections are
    ternary and see int8 activations.
    input_norms, output_norms, qk_norm, sub_norms, *_bias: which optional tensors exist. wide_qk_norms: over all heads
    together; late_qk_norms: after the rotation. query_scale: of scores, 0 for 1 / sqrt(head_dim). rotary_dim: values of
    a head that are rotated, 0 for all; rotary_scale: of cosines and sines. unrotated_layers: those without positions.
    convolution_layers: those with a short convolution of `taps` positions in place of attention. score_cap, logit_cap:
    x becomes cap * tanh(x / cap), 0: it stays.

    How the checkpoint holds it (names.py): norm_plus: what is added to a norm's stored weights; logit_scale: of the
    logits, folded into the last norm; pairs: neighbours are rotated together; fused_attention: their name
    of query, key and value in one matrix, fused_mlp: of gate and up, "" where they are apart; sources: their names of
    tensors that differ from Llama's. notes: for people.
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
    input_norms: bool = True
    output_norms: bool = False
    wide_qk_norms: bool = False
    late_qk_norms: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    query_scale: float = 0.0
    rotary_scale: float = 1.0
    rotary_dim: int = 0
    window_frequencies: NDArray[np.float32] | None = None
    full_layers: frozenset[int] = frozenset()
    unrotated_layers: frozenset[int] = frozenset()
    convolution_layers: frozenset[int] = frozenset()
    taps: int = 0
    score_cap: float = 0.0
    logit_cap: float = 0.0
    norm_plus: float = 0.0
    logit_scale: float = 1.0
    pairs: bool = False
    fused_attention: str = ""
    fused_mlp: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    bos: int = -1
    eos: tuple[int, ...] = ()

    @property
    def default_context(self) -> int:
        """Positions of a session that asks for none."""
        return min(self.context, DEFAULT_CONTEXT)

    def window_of(self, layer: int) -> int:
        """Positions that a query of the layer sees, itself included; 0: all."""
        return 0 if layer in self.full_layers else self.sliding_window

    def with_windows(
        self, frequencies: NDArray[np.float32], sliding_window: int, full_layers: frozenset[int]
    ) -> DecoderSpec:
        """The same decoder whose layers with a window have a rotary table of their own."""
        return replace(self, window_frequencies=frequencies, sliding_window=sliding_window, full_layers=full_layers)

    @property
    def score_scale(self) -> float:
        """What a score, query times key, is multiplied by."""
        return self.query_scale or float(self.head_dim**-0.5)

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
            self._flags(),
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
            *(0.0 if scale == 1 else scale for scale in (self.embedding_scale, self.residual_scale)),
            self.query_scale,
            0.0 if self.rotary_scale == 1 else self.rotary_scale,
            0 if self.rotary_dim == self.head_dim else self.rotary_dim,
            _layer_set("full_layers", self.full_layers),
            _layer_set("unrotated_layers", self.unrotated_layers),
            _layer_set("convolution_layers", self.convolution_layers),
            self.taps,
            self.score_cap,
            self.logit_cap,
            bytes(20),
        )

    def _flags(self) -> int:
        flags = {
            FLAG_INT8_ACTIVATIONS: self.ternary,
            FLAG_NO_INPUT_NORMS: not self.input_norms,
            FLAG_OUTPUT_NORMS: self.output_norms,
            FLAG_WIDE_QK_NORMS: self.wide_qk_norms,
            FLAG_LATE_QK_NORMS: self.late_qk_norms,
            FLAG_WINDOW_ROPE: self.window_frequencies is not None,
        }
        return sum(flag for flag, is_set in flags.items() if is_set)


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
    input_norms: bool
    output_norms: bool
    wide_qk_norms: bool
    late_qk_norms: bool
    window_rope: bool
    embedding_scale: float
    residual_scale: float
    query_scale: float
    rotary_scale: float
    rotary_dim: int
    full_layers: frozenset[int]
    unrotated_layers: frozenset[int]
    convolution_layers: frozenset[int]
    taps: int
    score_cap: float
    logit_cap: float

    def window_of(self, layer: int) -> int:
        """As DecoderSpec's."""
        return 0 if layer in self.full_layers else self.sliding_window

    @staticmethod
    def parse(data: bytes) -> ModelConfig:
        """From its 256 bytes, as a WeightsReader gives them. ValueError for an unknown activation, flag or field, and
        for a size beyond the limits."""
        fields = _CONFIG.unpack(data)
        if fields[0] & ~_FLAGS or any(fields[35]):
            raise ValueError(f"unknown settings of the model (flags {fields[0]:#x}); made by a newer version?")
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
            input_norms=not fields[0] & FLAG_NO_INPUT_NORMS,
            output_norms=bool(fields[0] & FLAG_OUTPUT_NORMS),
            wide_qk_norms=bool(fields[0] & FLAG_WIDE_QK_NORMS),
            late_qk_norms=bool(fields[0] & FLAG_LATE_QK_NORMS),
            window_rope=bool(fields[0] & FLAG_WINDOW_ROPE),
            embedding_scale=fields[24] or 1.0,
            residual_scale=fields[25] or 1.0,
            query_scale=fields[26] or float(fields[6] ** -0.5) if fields[6] else 0.0,
            rotary_scale=fields[27] or 1.0,
            rotary_dim=fields[28] or fields[6],
            full_layers=_layers_in(fields[29]),
            unrotated_layers=_layers_in(fields[30]),
            convolution_layers=_layers_in(fields[31]),
            taps=fields[32],
            score_cap=fields[33],
            logit_cap=fields[34],
        )
        problem = limits.problem(config)
        if problem:
            raise ValueError(problem)
        return config


def _layer_set(name: str, layers: frozenset[int]) -> bytes:
    """A set of layers as weights_index.h has it, 16 bytes."""
    if layers and max(layers) >= limits.MOST_SET_LAYERS:
        raise InputError(
            f"the model cannot be stored: {name} holds layer {max(layers)}; layers that differ are possible in models "
            f"of {limits.MOST_SET_LAYERS} layers at most"
        )
    return sum(1 << layer for layer in layers).to_bytes(limits.MOST_SET_LAYERS // 8, "little")


def _layers_in(data: bytes) -> frozenset[int]:
    bits = int.from_bytes(data, "little")
    return frozenset(layer for layer in range(limits.MOST_SET_LAYERS) if bits >> layer & 1)


def _short(text: str, limit: int) -> bytes:
    """UTF-8 of at most `limit` bytes, cut between characters."""
    return text.encode("utf-8", "replace").replace(b"\0", b"?")[:limit].decode("utf-8", "ignore").encode("utf-8")
