"""Rounding to levels, as one step of a processor's backward pass.

Written out of torch's operations, forward and backward go through a matrix some thirty times; here it is half of that,
and nothing but the inputs is kept in between. A GPU's compiler joins the operations itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def not_zero(d: Tensor) -> Tensor:
    """1 instead of 0."""
    return torch.where(d == 0, 1.0, d)


def steps_of(w: Tensor, d: Tensor, m: Tensor | None) -> Tensor:
    """(w - m) / d, not held to the levels and not rounded yet. d, m: broadcast to w."""
    return (w if m is None else w - m) / not_zero(d)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, d: Tensor, m: Tensor | None, low: float, high: float) -> Tensor:
        ctx.save_for_backward(w, d, m)
        ctx.ends = low, high
        level = steps_of(w, d, m).clamp_(low, high).round_()
        return level.mul_(d) if m is None else level.mul_(d).add_(m)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        w, d, m = ctx.saved_tensors
        v = steps_of(w, d, m)
        level = v.clamp(*ctx.ends)
        by_w = slopes[0] * (level == v).logical_and_(d != 0)
        by_v = v.mul_(by_w).sum_to_size(d.shape)
        by_d = level.round_().mul_(slopes[0]).sum_to_size(d.shape) - by_v
        by_m = None if m is None else slopes[0].sum_to_size(m.shape) - by_w.sum_to_size(m.shape)
        return by_w, by_d, by_m, None, None


def rounded(w: Tensor, d: Tensor, m: Tensor | None, low: float, high: float) -> Tensor:
    """level * d + m, with gradients by w, d and m that pass the rounding as if it were not there."""
    out: Tensor = _Rounded.apply(w, d, m, low, high)  # type: ignore[no-untyped-call]
    return out
