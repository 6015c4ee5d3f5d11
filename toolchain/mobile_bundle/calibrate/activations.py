"""Activations rounded to int8 as the engine rounds them, with gradients that pass straight through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from mobile_bundle.calibrate.decoder import LayerRunner


def round_int8(x: Tensor, group: int, half: bool = False) -> Tensor:
    """x with one scale, largest magnitude / 127, per `group` values of the last dimension; 0: one for all of them.
    half: the scales are kept in fp16, as in a cache."""
    columns = x.shape[-1]
    padding = -columns % group if group else 0
    parts = functional.pad(x.float(), (0, padding)) if padding else x.float()
    parts = parts.reshape(*parts.shape[:-1], -1, group or columns)
    largest = parts.detach().abs().amax(-1, keepdim=True).clamp(min=1e-30)
    step = largest / 127.0
    codes = (parts.detach() * (127.0 / largest)).round()
    rounded = codes * (step.half().float() if half else step)
    rounded = rounded.flatten(-2)[..., :columns].to(x.dtype)
    return x + (rounded - x).detach()


_CACHE_GROUP = 32
"""Values of a query, a key or a value that share an int8 scale in the engine's attention (MB_KV_BLOCK)."""


def round_attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as the engine's int8 cache has them."""
    k, v = round_int8(k, _CACHE_GROUP, half=True), round_int8(v, _CACHE_GROUP, half=True)
    return round_int8(q, _CACHE_GROUP), k, v


class Int8Runner(LayerRunner):
    """A layer whose inputs, queries, keys and values are rounded as the engine rounds them. groups: columns that share
    an int8 scale, by entrance of PROJECTIONS; 0: all of a token; None: the input stays as it is; others:
    LayerRunner's."""

    def __init__(self, groups: Mapping[str, int | None], *others: Any) -> None:
        super().__init__(*others)
        self._groups = groups

    def enter(self, name: str, x: Tensor) -> Tensor:
        group = self._groups[name]
        return super().enter(name, x if group is None else round_int8(x, group))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().attend(*round_attention(q, k, v))
