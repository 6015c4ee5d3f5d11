"""Activations rounded to int8 as the engine rounds them, with gradients that pass straight through."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


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
