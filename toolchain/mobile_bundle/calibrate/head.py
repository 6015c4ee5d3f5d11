"""The final norm and the output head on hidden states: their Hessian, gradients, and the loss of a coded model."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mobile_bundle.calibrate.activations import round_int8
from mobile_bundle.calibrate.decoder import normalise, soft_cap
from mobile_bundle.calibrate.device import CPU
from mobile_bundle.calibrate.measured import Measured
from mobile_bundle.calibrate.threads import side_by_side
from mobile_bundle.calibrate.walk import Walk, read_matrix, tensor_named
from mobile_bundle.models import Model

Floats = NDArray[np.float32]

_HEAD_TOKENS = 256
"""Tokens whose logits are in RAM together."""


class Head:
    """The final norm and the output head. weight: float32 (vocabulary, hidden); norm: (hidden,); cap: of the logits;
    group: columns of the input that share an int8 scale, 0: all, None: it is not rounded."""

    def __init__(self, weight: Tensor, norm: Tensor, epsilon: float, cap: float, group: int | None) -> None:
        self._weight, self._norm, self._epsilon, self._cap, self._group = weight, norm, epsilon, cap, group

    @staticmethod
    def of(model: Model, weight: Floats, device: torch.device = CPU, group: int | None = None) -> Head:
        """With the model's own final norm. device: where the hidden states are."""
        norm = torch.from_numpy(read_matrix(model, tensor_named(model, "norm.weight"))[0]).to(device)
        return Head(torch.from_numpy(weight).to(device), norm, model.spec.norm_epsilon, model.spec.logit_cap, group)

    def entered(self, hidden: Tensor) -> Tensor:
        """What the head reads of hidden states (..., hidden): float32 (tokens, hidden)."""
        return normalise(hidden, self._norm, self._epsilon).reshape(-1, hidden.shape[-1])

    @torch.no_grad()
    def hessian(self, walk: Walk) -> Floats:
        """Of the head's input, float32 (hidden, hidden)."""
        total = walk.hidden.new_zeros(walk.hidden.shape[-1], walk.hidden.shape[-1])
        for batch in walk.batches():
            x = self.entered(walk.hidden[batch])
            total.addmm_(x.T, x)
        return (total / walk.windows.size).cpu().numpy()

    def gradients(self, hidden: Tensor, tokens: Tensor, drawn: bool = False) -> tuple[float, Tensor, Floats]:
        """(mean loss, gradient of the summed loss by hidden, mean squared gradient of every logit (vocabulary,)).

        hidden: float32 (windows, tokens, hidden), before the final norm; tokens: int64 (windows, tokens); drawn: of
        next tokens that the model draws by seed, instead of the text's own."""
        gradient = torch.zeros_like(hidden)

        def piece(place: tuple[int, int, int]) -> tuple[float, Tensor]:
            window, begin, end = place
            x = hidden[window, begin:end].detach().requires_grad_(True)
            normed = normalise(x, self._norm, self._epsilon)
            with torch.no_grad():
                logits = soft_cap(normed @ self._weight.T, self._cap)
                targets = tokens[window, begin + 1 : end + 1]
                slope = torch.softmax(logits, dim=-1)
                if drawn:
                    targets = drawn_tokens(slope, window * tokens.shape[1] + begin)
                found = float(functional.cross_entropy(logits, targets, reduction="sum"))
                slope[torch.arange(end - begin, device=slope.device), targets] -= 1
                if self._cap:
                    slope *= 1 - (logits / self._cap).square()
                back = slope @ self._weight
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
        x = normalise(hidden, self._norm, self._epsilon)
        x = x if self._group is None else round_int8(x, self._group)
        return torch.log_softmax(soft_cap(x @ self._weight.T, self._cap), dim=-1)


def drawn_tokens(probabilities: Tensor, seed: int) -> Tensor:
    """A token for every row of (count, vocabulary), int64 (count,)."""
    sums = probabilities.cumsum(-1)
    places = torch.rand(len(sums), 1, generator=torch.Generator().manual_seed(seed)).to(sums.device) * sums[:, -1:]
    return torch.searchsorted(sums, places)[:, 0].clamp_(max=sums.shape[-1] - 1)


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
