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


class LayerRunner:
    """One layer. weights: float32 tensors by our names without "layers.N." (models/names.py)."""

    def __init__(self, spec: DecoderSpec, weights: Mapping[str, Tensor], cosines: Tensor, sines: Tensor) -> None:
        self._spec, self._weights = spec, weights
        self._cosines, self._sines = cosines, sines

    def forward(self, hidden: Tensor, observe: Observe | None = None, weigh: Weigh | None = None) -> Tensor:
        """The layer's output, of hidden's shape."""
        spec, weights = self._spec, self._weights
        count, tokens, _ = hidden.shape

        def projected(name: str, x: Tensor) -> Tensor:
            y = functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))
            if weigh:
                weigh(name, y)
            return y

        def entered(name: str, x: Tensor) -> Tensor:
            x = _round_int8(x) if spec.ternary else x
            if observe:
                observe(name, x)
            return x

        x = entered("attention", normalise(hidden, weights["attention.norm.weight"], spec.norm_epsilon))
        q = projected("attention.query", x).view(count, tokens, spec.heads, spec.head_dim)
        k = projected("attention.key", x).view(count, tokens, spec.kv_heads, spec.head_dim)
        v = projected("attention.value", x).view(count, tokens, spec.kv_heads, spec.head_dim)
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
        hidden = hidden + projected("attention.output", entered("attention.output", x))

        x = entered("mlp", normalise(hidden, weights["mlp.norm.weight"], spec.norm_epsilon))
        gate, up = projected("mlp.gate", x), projected("mlp.up", x)
        x = (functional.silu(gate) if spec.activation == "silu" else functional.relu(gate).square()) * up
        if spec.sub_norms:
            x = normalise(x, weights["mlp.sub_norm.weight"], spec.norm_epsilon)
        return hidden + projected("mlp.down", entered("mlp.down", x))
