"""The decoder in torch, one layer at a time: what calibration runs over its text.

It follows runtime/engine/decoder.c and transformers' models in float32. Only one layer's weights are in RAM at once.
Shapes: hidden states float32 (windows, tokens, hidden).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mobile_bundle.calibrate.device import CPU, is_gpu
from mobile_bundle.models import DecoderSpec

PROJECTIONS = {
    "attention.query": "attention",
    "attention.key": "attention",
    "attention.value": "attention",
    "attention.output": "attention.output",
    "conv.input": "attention",
    "conv.output": "attention.output",
    "mlp.gate": "mlp",
    "mlp.up": "mlp",
    "mlp.down": "mlp.down",
}
"""Projection of a layer, and the input it reads: with attention, or with a short convolution in its place. Projections
with the same input share its Hessian."""


def readers(stage: str, weights: Mapping[str, Tensor]) -> list[str]:
    """The projections that read an input, one of STAGES, in a layer of these weights."""
    return [name for name, entrance in PROJECTIONS.items() if entrance == stage and f"{name}.weight" in weights]


Observe = Callable[[str, Tensor], None]
"""Called with the name of an input of PROJECTIONS and its values, float32 (windows, tokens, columns)."""
Product = Callable[[Tensor, Tensor], Tensor]
Weigh = Callable[[str, Tensor], None]
"""Called with the name of a projection and its output, before it is used: for gradients."""


def fast_product(device: torch.device = CPU) -> Product:
    """x @ weight.T, float32, as fast as the device can: twice as fast where a processor has units for bfloat16, to
    which factors and results are rounded there, as on every GPU. Models are trained so, and int8 activations lose
    more."""
    if not is_gpu(device):
        capabilities = torch.cpu.get_capabilities()
        if not capabilities.get("avx512_bf16") and not capabilities.get("amx_bf16"):
            return functional.linear
    return lambda x, weight: functional.linear(x.bfloat16(), weight.bfloat16()).float()


def rotary(spec: DecoderSpec, tokens: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 (2, tokens, rotary_dim), for positions 0..tokens-1: of layers that see all positions,
    and of those with a window."""
    positions = torch.arange(tokens, dtype=torch.float32)
    local = spec.inverse_frequencies if spec.window_frequencies is None else spec.window_frequencies
    tables = torch.from_numpy(np.stack([spec.inverse_frequencies, local]))
    angles = positions[:, None] * tables[:, None, :]
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos() * spec.rotary_scale, angles.sin() * spec.rotary_scale


def normalise(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square norm over the last dimension."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """x held below a cap; 0: as it is."""
    return cap * torch.tanh(x / cap) if cap else x


def embedded(spec: DecoderSpec, rows: Tensor) -> Tensor:
    """The first layer's input, from rows of the embedding."""
    return rows * spec.embedding_scale if spec.embedding_scale != 1 else rows


def _rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """The first values of every head, as many as there are angles."""
    turned, kept = x[..., : cosines.shape[-1]], x[..., cosines.shape[-1] :]
    low, high = turned.chunk(2, dim=-1)
    return torch.cat([turned * cosines + torch.cat([-high, low], dim=-1) * sines, kept], dim=-1)


def _activate(spec: DecoderSpec, gate: Tensor) -> Tensor:
    if spec.activation == "gelu_tanh":
        return functional.gelu(gate, approximate="tanh")
    return functional.silu(gate) if spec.activation == "silu" else functional.relu(gate).square()


def _round_int8(x: Tensor) -> Tensor:
    """Absmax int8 per token, as BitNet is trained; gradients pass as if it were not there."""
    scale = 127.0 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
    return x + ((x * scale).round().clamp(-128, 127) / scale - x).detach()


STAGES = ("attention", "attention.output", "mlp", "mlp.down")
"""The inputs of PROJECTIONS in the order in which a layer comes by them."""


class LayerRunner:
    """One layer. weights: float32 tensors by our names without "layers.N." (models/names.py), looked up
    when they are used; cosines, sines: of rotary(); layer: its number; product: x and weight to x @ weight.T."""

    def __init__(
        self,
        spec: DecoderSpec,
        weights: Mapping[str, Tensor],
        cosines: Tensor,
        sines: Tensor,
        layer: int,
        product: Product = functional.linear,
    ) -> None:
        self._product = product
        self._spec, self._weights = spec, weights
        self._window = spec.window_of(layer)
        self._convolution = layer in spec.convolution_layers
        self._rotated = layer not in spec.unrotated_layers
        self._cosines, self._sines = cosines[int(self._window > 0)], sines[int(self._window > 0)]

    def _norm(self, name: str, x: Tensor) -> Tensor:
        """x as it is where the model has no such norm."""
        weight = self._weights.get(f"{name}.norm.weight")
        return x if weight is None else normalise(x, weight, self._spec.norm_epsilon)

    def _heads(self, name: str, x: Tensor, heads: int) -> Tensor:
        """Queries or keys (windows, tokens, heads * head_dim), normed, rotated: (windows, heads, tokens, head_dim)."""
        spec = self._spec
        if spec.wide_qk_norms:
            x = self._norm(name, x)
        x = x.view(*x.shape[:-1], heads, spec.head_dim)
        if not spec.wide_qk_norms and not spec.late_qk_norms:
            x = self._norm(name, x)
        x = x.transpose(1, 2)
        if self._rotated:
            x = _rotate(x, self._cosines, self._sines)
        return self._norm(name, x) if spec.late_qk_norms else x

    def at(self, cosines: Tensor, sines: Tensor) -> None:
        """From now on the tokens have these positions: rows of one of rotary's tables, (tokens, rotary_dim)."""
        self._cosines, self._sines = cosines, sines

    def enter(self, name: str, x: Tensor) -> Tensor:
        """What the projections see of their input `name` (of PROJECTIONS)."""
        del name
        return _round_int8(x) if self._spec.ternary else x

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The values mixed by attention: (windows, heads, tokens, head_dim), as q; k, v: of kv_heads heads."""
        tokens, mask = q.shape[-2], None
        if 0 < self._window < tokens:
            mask = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).tril().triu(1 - self._window)
        if self._spec.score_cap:
            return self._attend_capped(q, k, v, mask)
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=self._spec.score_scale, enable_gqa=True
        )

    def _attend_capped(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """attend with scores that are held below score_cap."""
        tokens, shared = q.shape[-2], q.shape[1] // k.shape[1]
        if mask is None:
            mask = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).tril()
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
        scores = soft_cap(q @ k.transpose(-1, -2) * self._spec.score_scale, self._spec.score_cap)
        return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v

    def _convolve(self, gates: Tensor) -> Tensor:
        """The short convolution of conv.input's output (windows, tokens, 3 * hidden): (windows, tokens, hidden)."""
        b, c, x = gates.chunk(3, dim=-1)
        taps, tokens = self._spec.taps, gates.shape[1]
        seen = functional.pad(b * x, (0, 0, taps - 1, 0))
        weights = self._weights["conv.taps.weight"].view(taps, -1)
        return c * sum((seen[:, t : t + tokens] * weights[t] for t in range(taps)), torch.zeros_like(c))

    def forward(self, hidden: Tensor, observe: Observe | None = None, weigh: Weigh | None = None) -> Tensor:
        """The layer's output, of hidden's shape."""
        entered = hidden
        for stage in STAGES:
            hidden, entered = self.reach(stage, hidden, entered, weigh)
            if observe:
                observe(stage, entered)
        return self.leave(hidden, entered, weigh)

    def reach(self, stage: str, hidden: Tensor, entered: Tensor, weigh: Weigh | None = None) -> tuple[Tensor, Tensor]:
        """The layer's way from one of STAGES' inputs to the next: (hidden, input of this stage).

        hidden, entered: what the stage before gave; for the first one both are the layer's input."""
        spec, weights = self._spec, self._weights
        if stage == "attention":
            x = self._norm("attention", hidden)
        elif stage == "attention.output" and self._convolution:
            x = self._convolve(self._projected("conv.input", entered, weigh))
        elif stage == "attention.output":
            q = self._heads("attention.query", self._projected("attention.query", entered, weigh), spec.heads)
            k = self._heads("attention.key", self._projected("attention.key", entered, weigh), spec.kv_heads)
            v = self._projected("attention.value", entered, weigh)
            v = v.view(*v.shape[:-1], spec.kv_heads, spec.head_dim)
            x = self.attend(q, k, v.transpose(1, 2)).transpose(1, 2).flatten(2)
            if spec.sub_norms:
                x = normalise(x, weights["attention.sub_norm.weight"], spec.norm_epsilon)
        elif stage == "mlp":
            output = "conv.output" if self._convolution else "attention.output"
            given = self._norm("attention.output", self._projected(output, entered, weigh))
            hidden = hidden + given * spec.residual_scale
            x = self._norm("mlp", hidden)
        else:
            gate, up = self._projected("mlp.gate", entered, weigh), self._projected("mlp.up", entered, weigh)
            x = _activate(spec, gate)
            x = x * up if torch.is_grad_enabled() else x.mul_(up)
            if spec.sub_norms:
                x = normalise(x, weights["mlp.sub_norm.weight"], spec.norm_epsilon)
        return hidden, self.enter(stage, x)

    def leave(self, hidden: Tensor, entered: Tensor, weigh: Weigh | None = None) -> Tensor:
        """The layer's output. hidden, entered: what the last stage gave."""
        given = self._norm("mlp.output", self._projected("mlp.down", entered, weigh))
        return hidden + given * self._spec.residual_scale

    def _projected(self, name: str, x: Tensor, weigh: Weigh | None) -> Tensor:
        y, bias = self._product(x, self._weights[f"{name}.weight"]), self._weights.get(f"{name}.bias")
        y = y if bias is None else y + bias
        if weigh:
            weigh(name, y)
        return y
