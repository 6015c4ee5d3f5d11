"""The loss: forward KL divergence of the student's next-token distribution from the original's, and the distance of
hidden states.

With a temperature, both distributions are softened by it and the loss is multiplied by its square, which keeps the
size of the gradient (Hinton et al. 2015, arXiv:1503.02531, section 2).

Logits of all tokens would need the most memory of all that training holds (100 k tokens of vocabulary times 24 k tokens
are 10 GB), so the head is computed in pieces, forward and backward at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mobile_bundle.calibrate.decoder import soft_cap

PIECE = 2048
"""Tokens whose logits are in memory together."""
_CACHED = 16
"""Tokens whose distributions a processor compares together: so many stay in its caches."""


Slope = Callable[[Tensor, Tensor, float, float], tuple[Tensor, Tensor]]


class _Divergence(torch.autograd.Function):
    """Mean over tokens of KL(original || student), in nats."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        head: Tensor,
        x_original: Tensor,
        head_original: Tensor,
        cap: float,
        temperature: float,
        slope_of: Slope,
    ) -> Tensor:
        total = torch.zeros((), device=x.device)
        low = head.to(head_original.dtype)  # once, not in every piece
        by_x, by_head = torch.empty_like(x), torch.zeros_like(head)
        for begin in range(0, len(x), PIECE):
            part = slice(begin, begin + PIECE)
            original = x_original[part].to(head_original.dtype) @ head_original.T
            loss, slope = _sloped(slope_of, x[part].to(low.dtype) @ low.T, original, cap, temperature)
            total += loss
            by_x[part] = slope @ low
            by_head += slope.T @ x[part].to(low.dtype)
        ctx.save_for_backward(by_x, by_head)
        ctx.count = len(x)
        return total / len(x)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, None, None, None, None, None]:
        by_x, by_head = ctx.saved_tensors
        return by_x * (slopes[0] / ctx.count), by_head * (slopes[0] / ctx.count), None, None, None, None, None


def _sloped(slope_of: Slope, logits: Tensor, original: Tensor, cap: float, temperature: float) -> tuple[Tensor, Tensor]:
    """slope_of's; on a processor a few tokens at a time."""
    if logits.device.type != "cpu":
        return slope_of(logits, original, cap, temperature)
    parts = [slice(begin, begin + _CACHED) for begin in range(0, len(logits), _CACHED)]
    found = [slope_of(logits[part], original[part], cap, temperature) for part in parts]
    return torch.stack([loss for loss, _ in found]).sum(), torch.cat([slope for _, slope in found])


def divergence_and_slope(logits: Tensor, original: Tensor, cap: float, temperature: float) -> tuple[Tensor, Tensor]:
    """(sum over rows of temperature^2 KL(original || logits), its gradient by the logits). Both (tokens, vocabulary),
    not capped yet. cap: DecoderSpec.logit_cap."""
    own, other = soft_cap(logits.float(), cap), soft_cap(original.float(), cap)
    q = torch.log_softmax(own / temperature, -1)
    p = torch.log_softmax(other / temperature, -1)
    likely = p.exp()
    slope = temperature * (q.exp() - likely)
    if cap:
        slope = slope * (1 - (own / cap).square())
    return temperature**2 * (likely * (p - q)).sum(), slope.to(logits.dtype)


def divergence(
    x: Tensor,
    head: Tensor,
    x_original: Tensor,
    head_original: Tensor,
    cap: float = 0.0,
    temperature: float = 1.0,
    slope_of: Slope = divergence_and_slope,
) -> Tensor:
    """x, x_original: what the heads see, (..., hidden); heads: (vocabulary, hidden); cap: of the logits, 0: none. A
    scalar with gradients by x and head. slope_of: divergence_and_slope, or that compiled."""
    loss: Tensor = _Divergence.apply(  # type: ignore[no-untyped-call]
        x.flatten(0, -2), head, x_original.flatten(0, -2), head_original, cap, temperature, slope_of
    )
    return loss


def distance(own: Tensor, original: Tensor) -> Tensor:
    """Of hidden states (..., hidden): mean over tokens of the squared distance by the original's square, so that no
    token counts more for being large."""
    own, original = own.float(), original.float()
    squared = (own - original).square().mean(-1)
    return (squared / original.square().mean(-1).clamp(min=1e-12)).mean()
