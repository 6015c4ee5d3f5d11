"""Walking through a decoder layer by layer with the calibration tokens, in bounded memory.

At any time one layer's weights, the hidden states of all tokens and what enters one of its projections, and the
Hessians of one layer's four inputs are in RAM.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobile_bundle.calibrate.decoder import STAGES, LayerRunner, embedded, rotary
from mobile_bundle.calibrate.threads import side_by_side
from mobile_bundle.models import Model, TensorSpec

_AT_ONCE = 2048
"""Tokens that go through a layer together."""

DRIFT_SHARE = 1 / 3
"""Part of the drift that is made up for: 1/4 to 1/2 did equally well at 3 bits, 3/4 worse than none."""
_DRIFT_DAMPING = 0.05
"""Part of H's mean diagonal that is added to it: 0.01 to 1 made no difference."""

Floats = NDArray[np.float32]


class Walk:
    """The hidden states of all windows on their way through the layers.

    windows: token ids int32 (count, tokens); embedding: float32 (vocabulary, hidden), perhaps already compressed.
    layer: the one that the hidden states go through next."""

    def __init__(self, model: Model, windows: NDArray[np.int32], embedding: Floats) -> None:
        self._model, self._spec = model, model.spec
        self.windows = windows
        self.hidden = embedded(self._spec, torch.from_numpy(embedding[windows]))
        self.layer = 0
        self._tables = rotary(self._spec, windows.shape[1])
        self.batch = max(1, _AT_ONCE // windows.shape[1])

    def batches(self) -> Iterator[slice]:
        """Windows that go through together."""
        for begin in range(0, len(self.windows), self.batch):
            yield slice(begin, begin + self.batch)

    def runner(self, weights: Mapping[str, Tensor], layer: int) -> LayerRunner:
        """A layer of this model with the given weights."""
        return LayerRunner(self._spec, weights, *self._tables, layer)

    def _next(self, weights: Mapping[str, Tensor]) -> LayerRunner:
        """Of the layer that is next; it counts as passed."""
        self.layer += 1
        return self.runner(weights, self.layer - 1)

    def hessians(self, weights: Mapping[str, Tensor]) -> dict[str, Floats]:
        """The mean of x x^T for every input of the layer (decoder.PROJECTIONS), float32 (columns, columns); moves on
        through the layer."""
        runner = self._next(weights)

        @torch.no_grad()
        def squares(batch: slice) -> dict[str, Tensor]:
            found: dict[str, Tensor] = {}

            def observe(name: str, x: Tensor) -> None:
                x = x.reshape(-1, x.shape[-1])
                found[name] = x.T @ x

            self.hidden[batch] = runner.forward(self.hidden[batch], observe)
            return found

        sums = added(side_by_side(squares, self.batches()))
        return {name: (total / self.windows.size).numpy() for name, total in sums.items()}

    def stages(self, weights: Mapping[str, Tensor], reference: Walk) -> Iterator[tuple[str, Floats, Floats]]:
        """Passes this walk and `reference` through the layer, input by input (decoder.STAGES): its name, its Hessian as
        `hessians` has it, and its drift. Between two of them the caller may replace in `weights` what reads the input:
        the next one is that of the layer as it is coded so far. `reference` keeps to the weights of the start.

        reference: the same windows in the uncompressed model. drift: Stats.drift, float32 (columns, columns), what has
        been coded so far has done to the input. W' minimises |W' x - W r|^2 over inputs x here and r there: W' = W + W
        E[(r - x) x^T] H^-1, asymmetric calibration as in GPTAQ (Li et al. 2025, arXiv:2504.02692, section 3). Only
        DRIFT_SHARE of it is taken: the whole correction also fits what is noise in the text, and does worse than
        none."""
        runner, other = self._next(weights), reference._next(dict(weights))
        batches = list(self.batches())
        # (hidden, input of the stage) of this walk and of the reference, batch by batch
        ways = [[(walk.hidden[batch],) * 2 for walk in (self, reference)] for batch in batches]
        count = self.windows.size
        for stage in STAGES:

            @torch.no_grad()
            def products(number: int, stage: str = stage) -> dict[str, Tensor]:
                own, theirs = ways[number]
                own, theirs = runner.reach(stage, *own), other.reach(stage, *theirs)
                ways[number] = [own, theirs]
                x = own[1].reshape(-1, own[1].shape[-1])
                return {"square": x.T @ x, "change": (theirs[1].reshape(x.shape) - x).T @ x}

            sums = added(side_by_side(products, range(len(batches))))
            square, change = sums["square"] / count, sums["change"] / count
            yield stage, square.numpy(), _drift(change, square)

        @torch.no_grad()
        def leave(number: int) -> None:
            for walk, run, way in zip((self, reference), (runner, other), ways[number], strict=True):
                walk.hidden[batches[number]] = run.leave(*way)
            ways[number] = []

        for _ in side_by_side(leave, range(len(batches))):
            pass

    def inputs(self, weights: Mapping[str, Tensor], reference: Walk) -> dict[str, tuple[Floats, Floats]]:
        """What `stages` gives of a layer whose matrices stay as they are, by stage; moves `reference` alone."""
        hidden, layer = self.hidden.clone(), self.layer
        found = {stage: (hessian, drift) for stage, hessian, drift in self.stages(weights, reference)}
        self.hidden, self.layer = hidden, layer
        return found

    def advance(self, weights: Mapping[str, Tensor]) -> None:
        """Passes the hidden states of all windows through the layer."""
        runner = self._next(weights)

        @torch.no_grad()
        def forward(batch: slice) -> None:
            self.hidden[batch] = runner.forward(self.hidden[batch])

        for _ in side_by_side(forward, self.batches()):
            pass


def added(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The sums by name, in the order of the parts."""
    sums: dict[str, Tensor] = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums[name].add_(value) if name in sums else value
    return sums


def _drift(change: Tensor, hessian: Tensor) -> Floats:
    """DRIFT_SHARE * change @ (hessian + damping)^-1."""
    h = hessian.double()
    h.diagonal().add_(max(_DRIFT_DAMPING * float(h.diagonal().mean()), 1e-12))
    solved = torch.linalg.solve(h, change.double().T).T
    drift: Floats = (DRIFT_SHARE * solved).float().contiguous().numpy()
    return drift


def tensor_named(model: Model, name: str) -> TensorSpec:
    """KeyError if there is none."""
    return {tensor.name: tensor for tensor in model.tensors}[name]


def read_matrix(model: Model, tensor: TensorSpec) -> Floats:
    """The whole tensor, float32 (rows, columns)."""
    out = np.empty((tensor.rows, tensor.columns), np.float32)
    begin = 0
    for chunk in model.source(tensor).chunks(4096):
        out[begin : begin + len(chunk)] = chunk
        begin += len(chunk)
    return out


def layer_tensors(model: Model, layer: int) -> dict[str, TensorSpec]:
    """The layer's tensors by their name without "layers.N."."""
    prefix = f"layers.{layer}."
    return {tensor.name.removeprefix(prefix): tensor for tensor in model.tensors if tensor.layer == layer}


def layer_weights(model: Model, layer: int) -> dict[str, Tensor]:
    """The layer's weights as LayerRunner takes them: matrices (rows, columns), vectors (size,)."""
    out = {}
    for name, tensor in layer_tensors(model, layer).items():
        matrix = torch.from_numpy(read_matrix(model, tensor))
        out[name] = matrix if tensor.role == "body" else matrix[0]
    return out
