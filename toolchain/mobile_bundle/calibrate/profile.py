"""What the uncompressed model says of itself on the calibration text: how much each weight's error costs.

To second order a change D of a matrix adds 1/2 * sum over rows r of E[g_r^2] * D_r H D_r^T to the loss (Gauss-Newton
with independent outputs, as K-FAC: Martens and Grosse 2015, arXiv:1503.05671, section 3; the diagonal of the output
side as in SqueezeLLM: Kim et al. 2023, arXiv:2306.07629, section 4.1). H: mean of x x^T over the inputs; g: gradient of
the loss by the outputs, here with the text's own next tokens. What each candidate code does to D H D^T is found by
coding some rows of the matrix with it.

Plans are made by these losses; as predictions they are multiplied by MatrixProfile.share. The text's own tokens make
the empirical Fisher matrix; that of the loss to second order is the one of tokens that the model draws (Kunstner et al.
2019, arXiv:1905.12558, section 3), which makes the loss a KL divergence. With SmolLM2-135M's body kept exactly and its
embedding coded, losses by the text's tokens are 1.4 times the KL measured on text held out, by drawn ones 1.0 times.
Plans made by drawn tokens were no better. The share is also that of errors on other text (unfitted.py).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobile_bundle.calibrate.decoder import STAGES, fast_product, readers
from mobile_bundle.calibrate.device import CPU, is_gpu
from mobile_bundle.calibrate.head import Head
from mobile_bundle.calibrate.threads import side_by_side
from mobile_bundle.calibrate.trials import Try, trials
from mobile_bundle.calibrate.unfitted import grouped_squares, rounding_noise, unfitted_share
from mobile_bundle.calibrate.walk import Walk, added, layers_in_turn, moved, read_matrix, tensor_named
from mobile_bundle.codecs.affine import GROUPS
from mobile_bundle.codecs.matrices import Matrix
from mobile_bundle.codecs.propagation import importance, inverse_factor
from mobile_bundle.codecs.registry import worth_choosing
from mobile_bundle.codecs.vptq import row_scales
from mobile_bundle.files.disk import disk_errors, reserve
from mobile_bundle.models import Model
from mobile_bundle.processors import default_jobs

Floats = NDArray[np.float32]
Progress = Callable[[int, int, str], None]

_HESSIAN_TOKENS = 16384
_GRADIENT_TOKENS = 8192
_OTHER_TOKENS = 2048
_DRAWN_TOKENS = 4096
_TRIED_ROWS = 48
_TRIED_EMBEDDING_ROWS = 512
_LAYERS_TRIED = {False: 2, True: 4}
"""Layers whose candidates are tried at a time, without and with a GPU, which is done with a layer in a fraction of the
time of its trials. Of the 1.5 B shape's, a layer has 2.2 GB of Hessians and factors in RAM then."""
_INPUT_GROUPS = (*GROUPS, 0)


@dataclass(frozen=True)
class MatrixProfile:
    """sensitivity: loss (nats per token) that a relative squared error of 1 would add; losses: what coding with each
    candidate would add, by the codec's name; share: what losses are as predictions, divided by these; inputs: what
    rounding the inputs to int8 adds, as a prediction, by the codec's `activation_group`; column_importance: float32
    (columns,); row_weights: float32 (rows,), the mean squared gradient of every output."""

    sensitivity: float
    losses: Mapping[str, float]
    share: float
    inputs: Mapping[int, float]
    column_importance: Floats
    row_weights: Floats


@dataclass(frozen=True)
class Profile:
    """loss: mean negative log-likelihood (nats per token) of the uncompressed model on the gradient's windows;
    matrices: by tensor name; embedding_hessian and, for a head of its own, output_hessian: float32 (hidden, hidden),
    what Stats wants for them."""

    loss: float
    matrices: dict[str, MatrixProfile]
    embedding_hessian: Floats
    output_hessian: Floats | None


def profile_model(
    model: Model,
    windows: NDArray[np.int32],
    held_out: NDArray[np.int32],
    names: Sequence[str] = (),
    progress: Progress | None = None,
    device: torch.device = CPU,
) -> Profile:
    """windows: token ids int32 (count, tokens), of which some are taken; held_out: windows that nothing is fitted to,
    the same; names: of the candidate codecs to try; device: where it computes. Hidden states of some windows go to a
    temporary file meanwhile."""
    torch.manual_seed(0)
    with trials(device) as tries:
        return _profile_model(model, windows, held_out, names, progress, device, tries)


def _profile_model(
    model: Model,
    windows: NDArray[np.int32],
    held_out: NDArray[np.int32],
    names: Sequence[str],
    progress: Progress | None,
    device: torch.device,
    tries: Try,
) -> Profile:
    spec = model.spec
    steps = 2 * spec.layers + 1
    embedding = read_matrix(model, tensor_named(model, "embedding.weight"))
    # Float32 on every processor: with bfloat16's products, gradients at the tokens on which attention rests (the first
    # of a text) are far off. On SmolLM2-135M the largest were three times as large, and plans follow them.
    walk = Walk(model, _some(windows, _HESSIAN_TOKENS), embedding, device=device)
    other = Walk(model, _some(held_out, _OTHER_TOKENS), embedding, fast_product(device), device)
    fitted = len(walk.windows) / len(windows)
    count = min(len(walk.windows), max(1, _GRADIENT_TOKENS // windows.shape[1]))
    tried: dict[tuple[int, str], Future[list[_Tried]]] = {}
    with ThreadPoolExecutor(default_jobs()) as pool, tempfile.TemporaryFile(prefix="mobile-bundle-") as file:
        shape = (spec.layers, count, windows.shape[1], spec.hidden)
        size = 4 * math.prod(shape)
        with disk_errors(Path(tempfile.gettempdir()), size):
            reserve(file.fileno(), size)
        kept = np.memmap(file, np.float32, "w+", shape=shape)
        for layer, weights in layers_in_turn(model, range(spec.layers), device):
            kept[layer] = walk.hidden[:count].cpu().numpy()
            there = moved(weights, device)
            hessians, entered = walk.hessians(there), other.entered(there)
            for stage, hessian in hessians.items():
                matrices = [weights[f"{name}.weight"].numpy() for name in readers(stage, weights)]
                tried[layer, stage] = pool.submit(_try, matrices, hessian, names, tries, entered[stage], fitted)
            for key in list(tried)[: -_LAYERS_TRIED[is_gpu(device)] * len(hessians)]:
                tried[key].result()  # so that not all layers' weights wait in RAM
            if progress:
                progress(layer + 1, steps, f"layer {layer}")
        tied = embedding if spec.tied else read_matrix(model, tensor_named(model, "output.weight"))
        head = Head.of(model, tied, device)
        head_hessian = head.hessian(walk)
        tokens = torch.from_numpy(walk.windows[:count].astype(np.int64)).to(device)
        loss, gradient, head_rows = head.gradients(walk.hidden[:count], tokens)
        few = max(1, min(count, _DRAWN_TOKENS // windows.shape[1]))
        _, drawn, drawn_head = head.gradients(walk.hidden[:few], tokens[:few], drawn=True)
        if progress:
            progress(spec.layers + 1, steps, "output")
        found = {}
        for layer, own in layers_in_turn(model, reversed(range(spec.layers)), device):
            weights = moved(own, device)
            hidden = torch.from_numpy(kept[layer].copy()).to(device)
            gradient, rows, _ = _back(walk, layer, weights, hidden, gradient)
            drawn, drawn_rows, inputs = _back(walk, layer, weights, hidden[:few], drawn)
            for stage in STAGES:
                for name, known in zip(readers(stage, weights), tried[layer, stage].result(), strict=True):
                    found[f"layers.{layer}.{name}.weight"] = _profile(known, rows[name], drawn_rows[name], inputs[name])
            if progress:
                progress(2 * spec.layers + 1 - layer, steps, f"layer {layer}, gradients")
        del kept
    seen = np.bincount(windows.reshape(-1), minlength=spec.vocabulary).astype(np.float32) / np.float32(windows.size)
    # An error of a row is felt where its token is read, and there by the gradients of that place.
    slopes = np.square((gradient * spec.embedding_scale).cpu().numpy().reshape(-1, spec.hidden))
    entry = slopes.mean(0)
    felt = slopes.mean(1) / max(float(entry.mean()), 1e-30)
    read = np.bincount(walk.windows[:count].reshape(-1), felt / len(felt), spec.vocabulary).astype(np.float32)
    entry_hessian = np.diag(entry).astype(np.float32)

    last, answers = head.entered(other.hidden), torch.from_numpy(tied)
    of_inputs = {
        group: 0.5
        * float(
            torch.from_numpy(drawn_head) @ grouped_squares(answers, group) @ rounding_noise(last, group).mean(0).cpu()
        )
        for group in _INPUT_GROUPS
    }

    strengths = np.square(row_scales(tied))
    of_head = float(drawn_head @ strengths) / max(float(head_rows @ strengths), 1e-30)
    of_entry = float(drawn.square().mean()) / max(float(gradient[:few].square().mean()), 1e-30)

    def table(
        hessian: Floats, row_weights: Floats, weight: Floats, share: float, inputs: Mapping[int, float]
    ) -> MatrixProfile:
        return _table(weight, hessian, row_weights, share, inputs, names, tries)

    if spec.tied:
        # one matrix, two uses: rows are weighted by how often they are read, and by how much the logits mind
        energy = np.square(row_scales(embedding))
        share = float((head_rows * energy).sum() / energy.sum()), float((read * energy).sum() / energy.sum())
        both = np.float32(share[0]) * head_hessian + np.float32(share[1]) * entry_hessian
        # how much of an error, which spreads over H's eigenvectors as H^-1 does, is that of the logits
        factor = inverse_factor(both)
        part = share[0] * float(np.einsum("ij,ij->", factor @ head_hessian, factor)) / spec.hidden
        mixed = np.float32(part / share[0]) * head_rows + np.float32((1 - part) / share[1]) * read
        used = part * of_head + (1 - part) * of_entry
        found["embedding.weight"] = replace(
            table(both, mixed, embedding, used, of_inputs), row_weights=np.ones(spec.vocabulary, np.float32)
        )
        return Profile(loss, found, both, None)
    found["embedding.weight"] = replace(table(entry_hessian, read, embedding, of_entry, {}), row_weights=seen)
    found["output.weight"] = table(head_hessian, head_rows, tied, of_head, of_inputs)
    return Profile(loss, found, entry_hessian, head_hessian)


def _some(windows: NDArray[np.int32], tokens: int) -> NDArray[np.int32]:
    """Windows of about so many tokens in all, evenly spread over the text."""
    wanted = min(len(windows), max(1, tokens // windows.shape[1]))
    chosen: NDArray[np.int32] = windows[np.arange(wanted) * len(windows) // wanted]
    return chosen


@dataclass(frozen=True)
class _Tried:
    """What is known of a matrix before the gradients. energy: float32 (rows,), mean square of every row; rows: those
    that were coded; errors: D H D^T of these, by the codec's name; unfitted: what these are on other text, divided by
    what they are here."""

    importance: Floats
    energy: Floats
    rows: NDArray[np.intp]
    errors: Mapping[str, Floats]
    unfitted: float


def _try(
    matrices: Sequence[Floats], hessian: Matrix, names: Sequence[str], tries: Try, entered: Floats, share: float
) -> list[_Tried]:
    """Matrices that read one input, each by itself, of which a few rows each are coded, all of them together; entered:
    the input on text held out, float32 (tokens, columns); share: of the text that coding will use, how much the
    Hessian has seen."""
    counts = [min(_TRIED_ROWS, len(each)) for each in matrices]
    chosen = [np.arange(count) * len(each) // count for each, count in zip(matrices, counts, strict=True)]
    rows = [each[some] for each, some in zip(matrices, chosen, strict=True)]
    together = np.concatenate(rows)
    factor = inverse_factor(hessian, quick=True)
    columns = importance(factor)
    optimism = unfitted_share(together, factor, hessian, entered, share)
    del factor
    errors = tries(together, hessian, _worth_trying(names, together))
    tried, begin = [], 0
    for each, some in zip(matrices, chosen, strict=True):
        own = {name: values[begin : begin + len(some)] for name, values in errors.items()}
        tried.append(_Tried(columns, np.square(row_scales(each)), some, own, optimism))
        begin += len(some)
    return tried


def _worth_trying(names: Sequence[str], weight: Floats) -> list[str]:
    worth = worth_choosing(weight.shape[1])
    return [name for name in names if name in worth]


def _profile(tried: _Tried, row_weights: Floats, drawn_rows: Floats, inputs: Mapping[int, float]) -> MatrixProfile:
    """The errors of the rows that were coded are scaled up by energy, as far as the loss minds it. drawn_rows: as
    row_weights, of tokens that the model draws."""
    counts = row_weights.astype(np.float64) * tried.energy
    columns = float(tried.importance.sum(dtype=np.float64))
    sensitivity = 0.5 * float(counts.sum()) * columns
    share = max(float(counts[tried.rows].sum()) * columns, 1e-30)
    losses = {
        name: sensitivity * float(row_weights[tried.rows].astype(np.float64) @ errors) / share
        for name, errors in tried.errors.items()
    }
    predicted = tried.unfitted * float(drawn_rows.astype(np.float64) @ tried.energy) / max(float(counts.sum()), 1e-30)
    return MatrixProfile(sensitivity, losses, predicted, inputs, tried.importance, row_weights)


def _table(
    weight: Floats,
    hessian: Floats,
    row_weights: Floats,
    share: float,
    inputs: Mapping[int, float],
    names: Sequence[str],
    tries: Try,
) -> MatrixProfile:
    """Of an embedding or output head, whose rows matter very unequally: rows are tried as often as their share of the
    loss has it. (Rows at even steps are mostly tokens that hardly ever occur; on SmolLM2-135M these have 1.3 times the
    relative error of the frequent ones at 5 bits.)"""
    energy = np.square(row_scales(weight))
    counts = np.cumsum(row_weights.astype(np.float64) * energy)
    places = (np.arange(_TRIED_EMBEDDING_ROWS) + 0.5) * (counts[-1] / _TRIED_EMBEDDING_ROWS)
    chosen = np.minimum(np.searchsorted(counts, places), len(weight) - 1)
    errors = tries(weight[chosen], hessian, _worth_trying(names, weight))
    columns = importance(inverse_factor(hessian, quick=True))
    total = 0.5 * float(counts[-1])
    losses = {name: total * float((own / energy[chosen]).mean(dtype=np.float64)) for name, own in errors.items()}
    return MatrixProfile(total * float(columns.sum(dtype=np.float64)), losses, share, inputs, columns, row_weights)


def _back(
    walk: Walk, layer: int, weights: dict[str, Tensor], hidden: Tensor, gradient: Tensor
) -> tuple[Tensor, dict[str, Floats], dict[str, dict[int, float]]]:
    """The gradient by the layer's input, the mean squared gradient of every output of its projections, and what
    rounding their inputs to int8 costs (MatrixProfile.inputs)."""
    runner = walk.runner(weights, layer)
    before = torch.empty_like(hidden)
    stages = {name: stage for stage in STAGES for name in readers(stage, weights)}
    strengths = {
        name: [grouped_squares(weights[f"{name}.weight"], group) for group in _INPUT_GROUPS] for name in stages
    }

    def back(batch: slice) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}
        noise: dict[str, list[Tensor]] = {}

        def observe(stage: str, x: Tensor) -> None:
            entered = x.detach().reshape(-1, x.shape[-1])
            noise[stage] = [rounding_noise(entered, group) for group in _INPUT_GROUPS]

        def weigh(name: str, y: Tensor) -> None:
            y.retain_grad()
            outputs[name] = y

        x = hidden[batch].detach().requires_grad_(True)
        runner.forward(x, observe, weigh).backward(gradient[batch])  # type: ignore[no-untyped-call]
        assert x.grad is not None
        before[batch] = x.grad
        found = {}
        for name, y in outputs.items():
            assert y.grad is not None
            squares = y.grad.reshape(-1, y.shape[-1]).square_()
            found[name] = squares.sum(0)
            # token by token: where inputs are the largest (attention's sinks), the loss hardly minds
            pairs = zip(strengths[name], noise[stages[name]], strict=True)
            found[f"{name}.inputs"] = torch.stack([((squares @ strength) * errors).sum() for strength, errors in pairs])
        return found

    batches = [slice(begin, begin + walk.batch) for begin in range(0, len(hidden), walk.batch)]
    squares = added(side_by_side(back, batches, walk.device))
    tokens = hidden.shape[0] * hidden.shape[1]
    inputs = {}
    for name in stages:
        costs = squares.pop(f"{name}.inputs") * (0.5 / tokens)
        inputs[name] = dict(zip(_INPUT_GROUPS, costs.cpu().numpy().tolist(), strict=True))
    return before, {name: (total / tokens).cpu().numpy() for name, total in squares.items()}, inputs
