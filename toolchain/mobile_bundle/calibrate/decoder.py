"""The decoder in torch, one layer at a time: what calibration runs over its text.

It follows runtime/engine/decoder.c and transformers' models in float32. Only one layer's weights are in RAM at once.
Shapes: hidden states float32 (windows, tokens, hidden).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from mobile_bundle.models import DecoderSpec

PROJECTIONS = {
    "attention.query": "attention",
    "attention.key": "attention",
    "attention.value": "attention",
    "attention.output": "attention.output",
    "mlp.gate": "mlp",
    "mlp.up": "mlp",
    "mlp.down": "mlp.down",
}
"""Projection of a layer, and the input it reads. Projections with the same input share its Hessian."""

Observe = Callable[[str, Tensor], None]
"""Called with the name of an input of PROJECTIONS and its values, float32 (windows, tokens, columns)."""
Weigh = Callable[[str, Tensor], None]
"""Called with the name of a projection and its output, before it is used: for gradients."""


def rotary(spec: DecoderSpec, tokens: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 (tokens, head_dim), for positions 0..tokens-1."""
    positions = torch.arange(tokens, dtype=torch.float32)
    angles = torch.outer(positions, torch.from_numpy(spec.inverse_frequencies.copy()))
    angles = torch.cat([angles, angles], dim=1)
    return angles.cos(), angles.sin()


def normalise(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square norm over the last dimension."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight


def _rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    half = x.shape[-1] // 2
    out = x * cosines
    out[..., :half] -= high * sines[:, :half]
    out[..., half:] += low * sines[:, half:]
    return out


def _round_int8(x: Tensor) -> Tensor:
    """Absmax int8 per token, as BitNet is trained; gradients pass as if it were not there."""
    scale = 127.0 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
    return x + ((x * scale).round().clamp(-128, 127) / scale - x).detach()


STAGES = ("attention", "attention.output", "mlp", "mlp.down")
"""The inputs of PROJECTIONS in the order in which a layer comes by them."""


class LayerRunner:
    """One layer. weights: float32 tensors by our names without "layers.N." (models/names.py), looked up when they are
    used."""

    def __init__(self, spec: DecoderSpec, weights: Mapping[str, Tensor], cosines: Tensor, sines: Tensor) -> None:
        self._spec, self._weights = spec, weights
        self._cosines, self._sines = cosines, sines

    def forward(self, hidden: Tensor, observe: Observe | None = None, weigh: Weigh | None = None) -> Tensor:
        """The layer's output, of hidden's shape."""
        entered = hidden
        for stage in STAGES:
            hidden, entered = self.enter(stage, hidden, entered, weigh)
            if observe:
                observe(stage, entered)
        return self.leave(hidden, entered, weigh)

    def enter(self, stage: str, hidden: Tensor, entered: Tensor, weigh: Weigh | None = None) -> tuple[Tensor, Tensor]:
        """The layer's way from one of STAGES' inputs to the next: (hidden, input of this stage).

        hidden, entered: what the stage before gave; for the first one both are the layer's input."""
        weights, epsilon = self._weights, self._spec.norm_epsilon
        if stage == "attention":
            x = normalise(hidden, weights["attention.norm.weight"], epsilon)
        elif stage == "attention.output":
            x = self._attend(entered, weigh)
        elif stage == "mlp":
            hidden = hidden + self._projected("attention.output", entered, weigh)
            x = normalise(hidden, weights["mlp.norm.weight"], epsilon)
        else:
            gate, up = self._projected("mlp.gate", entered, weigh), self._projected("mlp.up", entered, weigh)
            x = (functional.silu(gate) if self._spec.activation == "silu" else functional.relu(gate).square()) * up
            if self._spec.sub_norms:
                x = normalise(x, weights["mlp.sub_norm.weight"], epsilon)
        return hidden, _round_int8(x) if self._spec.ternary else x

    def leave(self, hidden: Tensor, entered: Tensor, weigh: Weigh | None = None) -> Tensor:
        """The layer's output. hidden, entered: what the last stage gave."""
        return hidden + self._projected("mlp.down", entered, weigh)

    def _projected(self, name: str, x: Tensor, weigh: Weigh | None) -> Tensor:
        y = functional.linear(x, self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias"))
        if weigh:
            weigh(name, y)
        return y

    def _attend(self, x: Tensor, weigh: Weigh | None) -> Tensor:
        spec, weights = self._spec, self._weights
        count, tokens, _ = x.shape
        q = self._projected("attention.query", x, weigh).view(count, tokens, spec.heads, spec.head_dim)
        k = self._projected("attention.key", x, weigh).view(count, tokens, spec.kv_heads, spec.head_dim)
        v = self._projected("attention.value", x, weigh).view(count, tokens, spec.kv_heads, spec.head_dim)
        if spec.qk_norm:
            q = normalise(q, weights["attention.query.norm.weight"], spec.norm_epsilon)
            k = normalise(k, weights["attention.key.norm.weight"], spec.norm_epsilon)
        q = _rotate(q.transpose(1, 2), self._cosines, self._sines)
        k = _rotate(k.transpose(1, 2), self._cosines, self._sines)
        mask = None
        if 0 < spec.sliding_window < tokens:
            mask = torch.ones(tokens, tokens, dtype=torch.bool).tril().triu(1 - spec.sliding_window)
        mixed = functional.scaled_dot_product_attention(
            q, k, v.transpose(1, 2), attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        x = mixed.transpose(1, 2).reshape(count, tokens, -1)
        if spec.sub_norms:
            x = normalise(x, weights["attention.sub_norm.weight"], spec.norm_epsilon)
        return x
