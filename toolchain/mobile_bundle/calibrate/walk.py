"""Walking through a decoder layer by layer with the calibration tokens, in bounded memory.

At any time one layer's weights, the hidden states of all tokens and what enters one of its projections, and the
Hessians of one layer's four inputs are in RAM.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mobile_bundle.calibrate.activations import Int8Runner
from mobile_bundle.calibrate.decoder import STAGES, LayerRunner, Product, embedded, readers, rotary
from mobile_bundle.calibrate.device import CPU, for_codecs, is_gpu, rounded
from mobile_bundle.calibrate.threads import side_by_side
from mobile_bundle.codecs.matrices import Matrix, on_host
from mobile_bundle.models import Model, TensorSpec
from mobile_bundle.native.products import bf16_products, has_bf16_products
from mobile_bundle.processors import default_jobs

_AT_ONCE = 2048
"""Tokens that go through a layer together."""

_BLOCKS = 4
"""Of columns, in products that are symmetric."""

DRIFT_SHARE = 1 / 3
"""Part of the drift that is made up for: 1/4 to 1/2 did equally well at 3 bits, 3/4 worse than none."""
_DRIFT_DAMPING = 0.05
"""Part of H's mean diagonal that is added to it: 0.01 to 1 made no difference."""

Floats = NDArray[np.float32]


class Walk:
    """The hidden states of all windows on their way through the layers.

    windows: token ids int32 (count, tokens); embedding: float32 (vocabulary, hidden), perhaps already compressed;
    product: of weights and inputs (LayerRunner). device: where the hidden states are, and weights have to be.
    layer: the one that the hidden states go through next."""

    def __init__(
        self,
        model: Model,
        windows: NDArray[np.int32],
        embedding: Floats,
        product: Product = functional.linear,
        device: torch.device = CPU,
    ) -> None:
        self._product = product
        self._model, self._spec = model, model.spec
        self.windows = windows
        self.device = device
        self.hidden = embedded(self._spec, torch.from_numpy(embedding[windows]).to(device))
        self.layer = 0
        cosines, sines = rotary(self._spec, windows.shape[1])
        self._tables = cosines.to(device), sines.to(device)
        self.batch = max(1, _AT_ONCE // windows.shape[1])

    def batches(self) -> Iterator[slice]:
        """Windows that go through together."""
        for begin in range(0, len(self.windows), self.batch):
            yield slice(begin, begin + self.batch)

    def runner(
        self, weights: Mapping[str, Tensor], layer: int, groups: Mapping[str, int | None] | None = None
    ) -> LayerRunner:
        """A layer of this model with the given weights; groups: Int8Runner's, or None for float32."""
        runner = LayerRunner if groups is None else partial(Int8Runner, groups)
        return runner(self._spec, weights, *self._tables, layer, self._product)

    def _next(self, weights: Mapping[str, Tensor], groups: Mapping[str, int | None] | None = None) -> LayerRunner:
        """Of the layer that is next; it counts as passed."""
        self.layer += 1
        return self.runner(weights, self.layer - 1, groups)

    def hessians(self, weights: Mapping[str, Tensor]) -> dict[str, Matrix]:
        """The mean of x x^T for every input of the layer (decoder.PROJECTIONS), float32 (columns, columns); moves on
        through the layer."""
        runner = self._next(weights)

        @torch.no_grad()
        def squares(batch: slice) -> dict[str, Tensor]:
            found: dict[str, Tensor] = {}

            def observe(name: str, x: Tensor) -> None:
                found[name] = _upper_squares(x.reshape(-1, x.shape[-1]))

            self.hidden[batch] = runner.forward(self.hidden[batch], observe)
            return found

        sums = added(side_by_side(squares, self.batches(), self.device))
        return {name: for_codecs(_symmetric(total.div_(self.windows.size))) for name, total in sums.items()}

    def entered(self, weights: Mapping[str, Tensor]) -> dict[str, Floats]:
        """What enters every input of the layer, float32 (tokens, columns), of all windows; moves on through the layer.
        For few windows: they go through together."""
        runner = self._next(weights)
        found: dict[str, Floats] = {}

        def observe(name: str, x: Tensor) -> None:
            found[name] = on_host(x.reshape(-1, x.shape[-1]))

        with torch.no_grad():
            self.hidden = runner.forward(self.hidden, observe)
        return found

    def stages(self, weights: Mapping[str, Tensor], reference: Walk) -> Iterator[tuple[str, Matrix, Matrix]]:
        """Passes this walk and `reference` through the layer, input by input (decoder.STAGES): its name, its Hessian as
        `hessians` has it, and its drift. Between two of them the caller may replace in `weights` what reads the input:
        the next one is that of the layer as it is coded so far. `reference` keeps to the weights of the start.

        The reference goes one input ahead meanwhile. Both walks' hidden states are overwritten on the way.

        reference: the same windows in the uncompressed model. drift: Stats.drift, float32 (columns, columns), what has
        been coded so far has done to the input. W' minimises |W' x - W r|^2 over inputs x here and r there: W' = W + W
        E[(r - x) x^T] H^-1, asymmetric calibration as in GPTAQ (Li et al. 2025, arXiv:2504.02692, section 3). Only
        DRIFT_SHARE of it is taken: the whole correction also fits what is noise in the text, and does worse than
        none."""
        own = _Way(self, self._next(weights), weights)
        before = dict(weights)
        other = _Way(reference, reference._next(before), before)
        ahead = other.start(STAGES[0])
        for number, stage in enumerate(STAGES):
            _finish(ahead)
            own.enter(stage)

            @torch.no_grad()
            def products(batch: slice, stage: str = stage) -> dict[str, Tensor]:
                own.reach(stage, batch)
                x, r = (way.entered[batch].reshape(-1, way.entered.shape[-1]) for way in (own, other))
                return {"square": _upper_squares(x), "change": _products(r - x, x)}

            sums = added(side_by_side(products, self.batches(), self.device))
            last = number + 1 == len(STAGES)
            ahead = other.leave() if last else other.start(STAGES[number + 1])
            square, change = (sums[name].div_(self.windows.size) for name in ("square", "change"))
            square = _symmetric(square)
            yield stage, for_codecs(square), for_codecs(_drift(change, square))
        _finish(own.leave())
        _finish(ahead)

    def inputs(self, weights: Mapping[str, Tensor], reference: Walk) -> dict[str, tuple[Matrix, Matrix]]:
        """What `stages` gives of a layer whose matrices stay as they are, by stage; moves `reference` alone."""
        hidden, layer = self.hidden.clone(), self.layer
        found = {stage: (hessian, drift) for stage, hessian, drift in self.stages(weights, reference)}
        self.hidden, self.layer = hidden, layer
        return found

    def advance(self, weights: Mapping[str, Tensor], groups: Mapping[str, int | None] | None = None) -> None:
        """Passes the hidden states of all windows through the layer. groups: with inputs, keys and values rounded to
        int8, Int8Runner's."""
        runner = self._next(weights, groups)

        @torch.no_grad()
        def forward(batch: slice) -> None:
            self.hidden[batch] = runner.forward(self.hidden[batch])

        _finish(side_by_side(forward, self.batches(), self.device))


class _Way:
    """A walk on its way through one layer. entered: the input of the stage that it has reached, float32 (windows,
    tokens, columns), in one piece of memory; the walk's hidden states are those of that stage."""

    def __init__(self, walk: Walk, runner: LayerRunner, weights: Mapping[str, Tensor]) -> None:
        self._walk, self._runner, self._weights = walk, runner, weights
        self.entered = self._before = walk.hidden

    def start(self, stage: str) -> Iterator[None]:
        """Has all windows go on to one of STAGES."""
        self.enter(stage)
        return side_by_side(lambda batch: self.reach(stage, batch), self._walk.batches(), self._walk.device)

    def enter(self, stage: str) -> None:
        """Before the first `reach` of a stage."""
        columns = self._weights[f"{readers(stage, self._weights)[0]}.weight"].shape[1]
        self._before, self.entered = self.entered, self._walk.hidden.new_empty(*self._walk.hidden.shape[:2], columns)

    @torch.no_grad()
    def reach(self, stage: str, batch: slice) -> None:
        hidden = self._walk.hidden[batch]
        after, self.entered[batch] = self._runner.reach(stage, hidden, self._before[batch])
        if after is not hidden:
            hidden[:] = after

    def leave(self) -> Iterator[None]:
        """Has all windows go out of the layer."""

        @torch.no_grad()
        def leave(batch: slice) -> None:
            hidden = self._walk.hidden[batch]
            hidden[:] = self._runner.leave(hidden, self.entered[batch])

        return side_by_side(leave, self._walk.batches(), self._walk.device)


def _finish(work: Iterable[None]) -> None:
    for _ in work:
        pass


def _upper_squares(x: Tensor) -> Tensor:
    """x^T x, (columns, columns), but only what is right of the diagonal, and a little more: a third of the work saved.
    x: (tokens, columns)."""
    if not is_gpu(x.device) and has_bf16_products():
        return torch.from_numpy(bf16_products(x.numpy(), x.numpy(), upper=True))
    x, columns = rounded(x), x.shape[1]
    step = -(-columns // _BLOCKS)
    out = x.new_zeros(columns, columns)
    for begin in range(0, columns, step):
        out[begin : begin + step, begin:] = x[:, begin : begin + step].T @ x[:, begin:]
    return out


def _products(a: Tensor, b: Tensor) -> Tensor:
    """a^T b, (columns of a, columns of b). a, b: (tokens, columns)."""
    if not is_gpu(a.device) and has_bf16_products():
        return torch.from_numpy(bf16_products(a.numpy(), b.numpy()))
    return rounded(a).T @ rounded(b)


def _symmetric(upper: Tensor) -> Tensor:
    """The whole of a symmetric matrix."""
    return upper.triu() + upper.triu(1).T


def added(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The sums by name, in the order of the parts."""
    sums: dict[str, Tensor] = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums[name].add_(value) if name in sums else value
    return sums


def _drift(change: Tensor, hessian: Tensor) -> Tensor:
    """DRIFT_SHARE * change @ (hessian + damping)^-1."""
    h = hessian.clone()
    h.diagonal().add_(max(_DRIFT_DAMPING * float(h.diagonal().mean()), 1e-12))
    factor, failed = torch.linalg.cholesky_ex(h)
    if failed:  # float32 is not enough
        solved = torch.linalg.solve(h.double(), change.double().T).float().T
    else:
        solved = torch.cholesky_solve(change.T, factor).T
    drift: Tensor = DRIFT_SHARE * solved
    return drift.contiguous()


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


def moved(weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A layer's weights, where a walk on that device wants them."""
    return {name: value.to(device) for name, value in weights.items()}


def layer_weights(model: Model, layer: int, threads: Executor | None = None) -> dict[str, Tensor]:
    """The layer's weights as LayerRunner takes them: matrices (rows, columns), vectors (size,). threads: read its
    tensors side by side."""
    tensors = layer_tensors(model, layer)
    matrices = (threads.map if threads else map)(partial(read_matrix, model), tensors.values())
    return {
        name: torch.from_numpy(matrix if tensor.role == "body" else matrix[0])
        for (name, tensor), matrix in zip(tensors.items(), matrices, strict=True)
    }


def layers_in_turn(
    model: Model, layers: Iterable[int], device: torch.device
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Layers and their weights. device: where they are used. A GPU is through with a layer before one thread has read
    it: several read then, the next layer while this one is in use."""
    if not is_gpu(device):
        for layer in layers:
            yield layer, layer_weights(model, layer)
        return
    with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(default_jobs()) as threads:
        coming: deque[tuple[int, Future[dict[str, Tensor]]]] = deque()
        for layer in layers:
            coming.append((layer, ahead.submit(layer_weights, model, layer, threads)))
            if len(coming) > 1:
                now, weights = coming.popleft()
                yield now, weights.result()
        for now, weights in coming:
            yield now, weights.result()
