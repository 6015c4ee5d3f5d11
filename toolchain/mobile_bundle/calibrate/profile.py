"""What the uncompressed model says of itself on the calibration text: how much each weight's error costs.

To second order a change D of a matrix adds 1/2 * sum over rows r of E[g_r^2] * D_r H D_r^T to the loss (Gauss-Newton
with independent outputs, as K-FAC: Martens and Grosse 2015, arXiv:1503.05671, section 3; the diagonal of the output
side as in SqueezeLLM: Kim et al. 2023, arXiv:2306.07629, section 4.1). H: mean of x x^T over the inputs; g: gradient of
the loss by the outputs, here with the text's own next tokens. With error propagation the input side becomes the
importance of the columns (codecs/propagation.py), so that a code whose mean squared error is a fraction d of the
weights' mean square costs `sensitivity * d`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mobile_bundle.calibrate.decoder import PROJECTIONS, normalise
from mobile_bundle.calibrate.walk import Walk, layer_weights, read_matrix
from mobile_bundle.codecs.propagation import importance, inverse_factor
from mobile_bundle.codecs.vptq import row_scales
from mobile_bundle.files.disk import disk_errors, reserve
from mobile_bundle.models import Model

Floats = NDArray[np.float32]
Progress = Callable[[int, int, str], None]

_GRADIENT_TOKENS = 8192
_HEAD_TOKENS = 256
"""Tokens whose logits are in RAM together."""


@dataclass(frozen=True)
class MatrixProfile:
    """sensitivity: loss (nats per token) that a relative squared error of 1 would add; column_importance: float32
    (columns,); row_weights: float32 (rows,), the mean squared gradient of every output."""

    sensitivity: float
    column_importance: Floats
    row_weights: Floats


@dataclass(frozen=True)
class Profile:
    """loss: mean negative log-likelihood (nats per token) of the uncompressed model on the gradient's windows;
    matrices: by tensor name; embedding_hessian and, for a head of its own,
    output_hessian: float32 (hidden, hidden), what Stats wants for them."""

    loss: float
    matrices: dict[str, MatrixProfile]
    embedding_hessian: Floats
    output_hessian: Floats | None


def profile_model(model: Model, windows: NDArray[np.int32], progress: Progress | None = None) -> Profile:
    """windows: token ids int32 (count, tokens). Hidden states of some windows go to a temporary file meanwhile."""
    torch.manual_seed(0)
    spec = model.spec
    steps = 2 * spec.layers + 1
    by_name = {tensor.name: tensor for tensor in model.tensors}
    embedding = read_matrix(model, by_name["embedding.weight"])
    walk = Walk(model, windows, embedding)
    count = min(len(windows), max(1, _GRADIENT_TOKENS // windows.shape[1]))
    importances: dict[str, Floats] = {}
    energies: dict[str, Floats] = {}
    with tempfile.TemporaryFile(prefix="mobile-bundle-") as file:
        shape = (spec.layers, count, windows.shape[1], spec.hidden)
        size = 4 * math.prod(shape)
        with disk_errors(Path(tempfile.gettempdir()), size):
            reserve(file.fileno(), size)
        kept = np.memmap(file, np.float32, "w+", shape=shape)
        for layer in range(spec.layers):
            kept[layer] = walk.hidden[:count].numpy()
            weights = layer_weights(model, layer)
            hessians = walk.hessians(weights)
            columns = {name: importance(inverse_factor(hessian)) for name, hessian in hessians.items()}
            for projection, entrance in PROJECTIONS.items():
                name = f"layers.{layer}.{projection}.weight"
                importances[name] = columns[entrance]
                energies[name] = np.square(row_scales(weights[f"{projection}.weight"].numpy()))
            walk.advance(weights)
            if progress:
                progress(layer + 1, steps, f"layer {layer}")
        tied = embedding if spec.tied else read_matrix(model, by_name["output.weight"])
        norm = torch.from_numpy(read_matrix(model, by_name["norm.weight"])[0])
        head = _Head(torch.from_numpy(tied), norm, spec.norm_epsilon)
        head_hessian = head.hessian(walk)
        loss, gradient, head_rows = head.gradients(
            walk.hidden[:count], torch.from_numpy(windows[:count].astype(np.int64))
        )
        if progress:
            progress(spec.layers + 1, steps, "output")
        matrices = {}
        for layer in reversed(range(spec.layers)):
            weights = layer_weights(model, layer)
            gradient, rows = _back(walk, layer, weights, torch.from_numpy(kept[layer].copy()), gradient)
            for projection, squares in rows.items():
                name = f"layers.{layer}.{projection}.weight"
                sensitivity = _sensitivity(squares, energies[name], importances[name])
                matrices[name] = MatrixProfile(sensitivity, importances[name], squares)
            if progress:
                progress(2 * spec.layers + 1 - layer, steps, f"layer {layer}, gradients")
        del kept
    seen = np.bincount(windows.reshape(-1), minlength=spec.vocabulary).astype(np.float32) / np.float32(windows.size)
    entry = (gradient * spec.embedding_scale).reshape(-1, spec.hidden).square().mean(0).numpy()
    entry_hessian = np.diag(entry).astype(np.float32)
    if spec.tied:
        # one matrix, two uses: rows are weighted by how often they are read, and by how much the logits mind
        energy = np.square(row_scales(embedding))
        share = float((head_rows * energy).sum() / energy.sum()), float((seen * energy).sum() / energy.sum())
        both = np.float32(share[0]) * head_hessian + np.float32(share[1]) * entry_hessian
        matrices["embedding.weight"] = _profile(both, np.ones(spec.vocabulary, np.float32), embedding)
        return Profile(loss, matrices, both, None)
    matrices["embedding.weight"] = _profile(entry_hessian, seen, embedding)
    matrices["output.weight"] = _profile(head_hessian, head_rows, tied)
    return Profile(loss, matrices, entry_hessian, head_hessian)


def _profile(hessian: Floats, row_weights: Floats, weight: Floats) -> MatrixProfile:
    columns = importance(inverse_factor(hessian))
    sensitivity = _sensitivity(row_weights, np.square(row_scales(weight)), columns)
    return MatrixProfile(sensitivity, columns, row_weights)


def _sensitivity(row_weights: Floats, row_energy: Floats, columns: Floats) -> float:
    return 0.5 * float(row_weights.astype(np.float64) @ row_energy) * float(columns.sum(dtype=np.float64))


class _Head:
    """The final norm and the output head."""

    def __init__(self, weight: Tensor, norm: Tensor, epsilon: float) -> None:
        self._weight, self._norm, self._epsilon = weight, norm, epsilon

    @torch.no_grad()
    def hessian(self, walk: Walk) -> Floats:
        """Of the head's input, float32 (hidden, hidden)."""
        total = torch.zeros(walk.hidden.shape[-1], walk.hidden.shape[-1])
        for batch in walk.batches():
            x = normalise(walk.hidden[batch], self._norm, self._epsilon).reshape(-1, len(total))
            total.addmm_(x.T, x)
        return (total / walk.windows.size).numpy()

    def gradients(self, hidden: Tensor, tokens: Tensor) -> tuple[float, Tensor, Floats]:
        """(mean loss, gradient of the summed loss by hidden, mean squared gradient of every logit (vocabulary,)).

        hidden: float32 (windows, tokens, hidden), before the final norm; tokens: int64 (windows, tokens)."""
        gradient = torch.zeros_like(hidden)
        squares = torch.zeros(len(self._weight))
        loss = 0.0
        for window in range(len(hidden)):
            for begin in range(0, tokens.shape[1] - 1, _HEAD_TOKENS):
                end = min(begin + _HEAD_TOKENS, tokens.shape[1] - 1)
                x = hidden[window, begin:end].detach().requires_grad_(True)
                normed = normalise(x, self._norm, self._epsilon)
                with torch.no_grad():
                    logits = normed @ self._weight.T
                    targets = tokens[window, begin + 1 : end + 1]
                    loss += float(functional.cross_entropy(logits, targets, reduction="sum"))
                    slope = torch.softmax(logits, dim=-1)
                    slope[torch.arange(end - begin), targets] -= 1
                    squares += slope.square().sum(0)
                    back = slope @ self._weight
                normed.backward(back)  # type: ignore[no-untyped-call]
                assert x.grad is not None
                gradient[window, begin:end] = x.grad
        scored = len(hidden) * (tokens.shape[1] - 1)
        return loss / scored, gradient, (squares / scored).numpy()


def _back(
    walk: Walk, layer: int, weights: dict[str, Tensor], hidden: Tensor, gradient: Tensor
) -> tuple[Tensor, dict[str, Floats]]:
    """The gradient by the layer's input, and the mean squared gradient of every output of its projections."""
    squares: dict[str, Tensor] = {}
    runner = walk.runner(weights, layer)
    before = torch.empty_like(hidden)
    for begin in range(0, len(hidden), walk.batch):
        batch = slice(begin, begin + walk.batch)
        outputs: dict[str, Tensor] = {}

        def weigh(name: str, y: Tensor, outputs: dict[str, Tensor] = outputs) -> None:
            y.retain_grad()
            outputs[name] = y

        x = hidden[batch].detach().requires_grad_(True)
        runner.forward(x, None, weigh).backward(gradient[batch])  # type: ignore[no-untyped-call]
        assert x.grad is not None
        before[batch] = x.grad
        for name, y in outputs.items():
            assert y.grad is not None
            total = y.grad.reshape(-1, y.shape[-1]).square().sum(0)
            squares[name] = squares[name] + total if name in squares else total
    tokens = hidden.shape[0] * hidden.shape[1]
    return before, {name: (total / tokens).numpy() for name, total in squares.items()}
