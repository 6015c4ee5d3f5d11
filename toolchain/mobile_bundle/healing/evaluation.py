"""How far the student is from the original, on text that it was not trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mobile_bundle.calibrate.decoder import soft_cap
from mobile_bundle.healing.decoders import Original, Student
from mobile_bundle.healing.divergence import PIECE
from mobile_bundle.healing.mixture import Tokens

_PIECE = 256
"""Tokens that are scored at a time on a processor, as PIECE is on a GPU: six values of every logit are in memory
together."""


@dataclass(frozen=True)
class Held:
    """kl: mean KL(original || student), nats per token; agreement: share of tokens at which both have the same best
    next token; perplexity, original_perplexity: of the next tokens; tokens: how many were scored."""

    kl: float
    agreement: float
    perplexity: float
    original_perplexity: float
    tokens: int

    @property
    def loss_increase(self) -> float:
        """Nats per token above the original."""
        return math.log(self.perplexity / self.original_perplexity)


@torch.no_grad()
def evaluate_held(
    student: Student, original: Original, windows: Tokens, at_once: int, int8: bool, seen: list[Tensor] | None = None
) -> Held:
    """windows: token ids int32 (count, tokens); every token but the first of each is scored. int8: with the engine's
    rounding of activations. seen: what the original's head sees of them, at_once by at_once; filled where it is empty,
    for the next evaluation of the same windows. In float32, and not compiled: it would take longer to compile than to
    compute."""
    seen = [] if seen is None else seen
    before, student.int8 = student.int8, int8
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    sums = torch.zeros(4, dtype=torch.float64)
    count = 0
    try:
        with torch.compiler.set_stance("force_eager"):
            for begin in range(0, len(windows), at_once):
                tokens = torch.from_numpy(windows[begin : begin + at_once].astype("int64")).to(original.norm.device)
                x, head = student(tokens)
                if begin // at_once == len(seen):
                    seen.append(original.hidden(tokens))
                y = seen[begin // at_once]
                targets = tokens[:, 1:].reshape(-1)
                x, y = x[:, :-1].flatten(0, 1), y[:, :-1].flatten(0, 1)
                piece = PIECE if tokens.device.type == "cuda" else _PIECE
                for first in range(0, len(targets), piece):
                    part = slice(first, first + piece)
                    logits, before_it = x[part] @ head.T, y[part] @ original.head.float().T
                    cap = original.spec.logit_cap
                    sums += _sums(soft_cap(logits, cap), soft_cap(before_it, cap), targets[part])
                count += len(targets)
    finally:
        student.int8 = before
        torch.set_float32_matmul_precision(precision)
    kl, agreeing, own, other = (float(value) / count for value in sums)
    return Held(kl, agreeing, _perplexity(own), _perplexity(other), count)


def _sums(logits: Tensor, original: Tensor, targets: Tensor) -> Tensor:
    """Of KL, agreement, and both negative log-likelihoods, float64 (4,) on the CPU."""
    q, p = torch.log_softmax(logits.float(), -1), torch.log_softmax(original.float(), -1)
    return (
        torch.stack(
            [
                (p.exp() * (p - q)).sum(),
                (p.argmax(-1) == q.argmax(-1)).sum().float(),
                functional.nll_loss(q, targets, reduction="sum"),
                functional.nll_loss(p, targets, reduction="sum"),
            ]
        )
        .double()
        .cpu()
    )


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
