"""The loss: forward KL divergence of the student's next-token distribution from the original's.

Logits of all tokens would need the most memory of all that training holds (100 k tokens of vocabulary times 24 k tokens
are 10 GB), so the head is computed in pieces, forward and backward at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

PIECE = 2048
"""Tokens whose logits are in memory together."""


Slope = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class _Divergence(torch.autograd.Function):
    """Mean over tokens of KL(original || student), in nats."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, head: Tensor, x_original: Tensor, head_original: Tensor, slope_of: Slope
    ) -> Tensor:
        total = torch.zeros((), device=x.device)
        by_x, by_head = torch.empty_like(x), torch.zeros_like(head)
        for begin in range(0, len(x), PIECE):
            part = slice(begin, begin + PIECE)
            loss, slope = slope_of(x[part] @ head.T, x_original[part].to(head_original.dtype) @ head_original.T)
            total += loss
            by_x[part] = slope @ head
            by_head += slope.T @ x[part]
        ctx.save_for_backward(by_x, by_head)
        ctx.count = len(x)
        return total / len(x)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        by_x, by_head = ctx.saved_tensors
        return by_x * (slopes[0] / ctx.count), by_head * (slopes[0] / ctx.count), None, None, None


def divergence_and_slope(logits: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
    """(sum over rows of KL(original || logits), its gradient by the logits). Both (tokens, vocabulary)."""
    q = torch.log_softmax(logits.float(), -1)
    p = torch.log_softmax(original.float(), -1)
    likely = p.exp()
    return (likely * (p - q)).sum(), (q.exp() - likely).to(logits.dtype)


def divergence(
    x: Tensor, head: Tensor, x_original: Tensor, head_original: Tensor, slope_of: Slope = divergence_and_slope
) -> Tensor:
    """x, x_original: what the heads see, (..., hidden); heads: (vocabulary, hidden). A scalar with gradients by x and
    head. slope_of: divergence_and_slope, or that compiled."""
    loss: Tensor = _Divergence.apply(  # type: ignore[no-untyped-call]
        x.flatten(0, -2), head, x_original.flatten(0, -2), head_original, slope_of
    )
    return loss
