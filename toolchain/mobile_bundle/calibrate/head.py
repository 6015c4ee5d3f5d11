"""The final norm and the output head on hidden states: their Hessian, gradients, and the loss of a coded model."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mobile_bundle.calibrate.decoder import normalise, soft_cap
from mobile_bundle.calibrate.device import CPU, rounded
from mobile_bundle.calibrate.measured import Measured
from mobile_bundle.calibrate.threads import side_by_side
from mobile_bundle.calibrate.walk import Walk, read_matrix, tensor_named
from mobile_bundle.models import Model

Floats = NDArray[np.float32]

_HEAD_TOKENS = 256
"""Tokens whose logits are in RAM together."""


class Head:
    """The final norm and the output head. weight: float32 (vocabulary, hidden); norm: (hidden,); cap: of the logits."""

    def __init__(self, weight: Tensor, norm: Tensor, epsilon: float, cap: float) -> None:
        self._weight, self._norm, self._epsilon, self._cap = weight, norm, epsilon, cap

    @staticmethod
    def of(model: Model, weight: Floats, device: torch.device = CPU) -> Head:
        """With the model's own final norm. device: where the hidden states are."""
        norm = torch.from_numpy(read_matrix(model, tensor_named(model, "norm.weight"))[0])
        return Head(torch.from_numpy(weight).to(device), norm.to(device), model.spec.norm_epsilon, model.spec.logit_cap)

    @torch.no_grad()
    def hessian(self, walk: Walk) -> Floats:
        """Of the head's input, float32 (hidden, hidden)."""
        total = walk.hidden.new_zeros(walk.hidden.shape[-1], walk.hidden.shape[-1])
        for batch in walk.batches():
            x = normalise(walk.hidden[batch], self._norm, self._epsilon).reshape(-1, len(total))
            total.addmm_(rounded(x).T, rounded(x))
        return (total / walk.windows.size).cpu().numpy()

    def gradients(self, hidden: Tensor, tokens: Tensor) -> tuple[float, Tensor, Floats]:
        """(mean loss, gradient of the summed loss by hidden, mean squared gradient of every logit (vocabulary,)).

        hidden: float32 (windows, tokens, hidden), before the final norm; tokens: int64 (windows, tokens)."""
        gradient, weight = torch.zeros_like(hidden), rounded(self._weight)

        def piece(place: tuple[int, int, int]) -> tuple[float, Tensor]:
            window, begin, end = place
            x = hidden[window, begin:end].detach().requires_grad_(True)
            normed = normalise(x, self._norm, self._epsilon)
            with torch.no_grad():
                logits = soft_cap(rounded(normed) @ weight.T, self._cap)
                targets = tokens[window, begin + 1 : end + 1]
                found = float(functional.cross_entropy(logits, targets, reduction="sum"))
                slope = torch.softmax(logits, dim=-1)
                slope[torch.arange(end - begin, device=slope.device), targets] -= 1
                if self._cap:
                    slope *= 1 - (logits / self._cap).square()
                back = rounded(slope) @ weight
            normed.backward(back)  # type: ignore[no-untyped-call]
            assert x.grad is not None
            gradient[window, begin:end] = x.grad
            return found, slope.square_().sum(0)

        squares = self._weight.new_zeros(len(self._weight))
        loss = 0.0
        for found, of_logits in side_by_side(piece, _pieces(tokens), hidden.device):
            loss += found
            squares += of_logits
        scored = _scored(tokens)
        return loss / scored, gradient, (squares / scored).cpu().numpy()

    def measure(self, walk: Walk, original: Head, reference: Walk) -> Measured:
        """This head on the coded model's hidden states, beside the original's on its own."""
        tokens = torch.from_numpy(walk.windows.astype(np.int64)).to(walk.device)

        @torch.no_grad()
        def piece(place: tuple[int, int, int]) -> tuple[float, float, float]:
            window, begin, end = place
            own = self._log_probabilities(walk.hidden[window, begin:end])
            theirs = original._log_probabilities(reference.hidden[window, begin:end])
            targets = tokens[window, begin + 1 : end + 1, None]
            taken, known = (-float(each.gather(1, targets).sum(dtype=torch.float64)) for each in (own, theirs))
            return taken, known, float((theirs.exp() * (theirs - own)).sum(dtype=torch.float64))

        loss, original_loss, kl = np.sum(list(side_by_side(piece, _pieces(tokens), walk.device)), axis=0).tolist()
        scored = _scored(tokens)
        return Measured(scored, original_loss / scored, loss / scored, kl / scored)

    def _log_probabilities(self, hidden: Tensor) -> Tensor:
        logits = soft_cap(normalise(hidden, self._norm, self._epsilon) @ self._weight.T, self._cap)
        return torch.log_softmax(logits, dim=-1)


def _pieces(tokens: Tensor) -> list[tuple[int, int, int]]:
    """(window, begin, end) of the tokens that have a next one, a few at a time."""
    last = tokens.shape[1] - 1
    return [
        (window, begin, min(begin + _HEAD_TOKENS, last))
        for window in range(len(tokens))
        for begin in range(0, last, _HEAD_TOKENS)
    ]


def _scored(tokens: Tensor) -> int:
    return len(tokens) * (tokens.shape[1] - 1)
