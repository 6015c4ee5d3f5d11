"""One decoder layer after the other, against the original's hidden states: what `layers_share` puts before the training
of the whole model (run.py).

A layer's weights, scales, norms and biases are trained, with the rounding in place, for the inputs that the healed
layers before it give, until its output is near what the original's layer gives for the original's inputs: so it also
makes up for what the layers before it left (block-wise training as in EfficientQAT: Chen et al. 2024, arXiv:2407.11062,
section 3.2, with BRECQ's targets: Li et al. 2021, arXiv:2102.05426). Only one layer's activations and optimiser are in
memory at a time.

Layers start from rounding with scales of least squared error. The calibrated code (GPTQ) is a worse start: its codes
lean on each other, and training first breaks that (wiki-6m, 2 bits, first layer, relative error on other text after the
same steps: 0.082 from rounding, 0.12 from the calibrated code, which has 0.12 untrained)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mobile_bundle.calibrate.walk import Walk, layer_weights, read_matrix
from mobile_bundle.codecs import StreamCodec
from mobile_bundle.errors import NotFinite
from mobile_bundle.healing.decoders import Grids, Original, Student, StudentLayer, rated, student_layer
from mobile_bundle.healing.divergence import distance
from mobile_bundle.healing.mixture import Tokens
from mobile_bundle.healing.state import load_saved, save_whole
from mobile_bundle.healing.world import bf16_products
from mobile_bundle.models import Model

_LOWEST_RATE = 0.02
_WARMUP = 10
_STEP_TOKENS = 512
"""Tokens of a step."""

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class BlockSettings:
    """rounds: how often a layer reads the text. rate: of learning at its peak. seconds: for all layers; the rounds of
    a layer end early when its part of them is over. None: no limit, and the same result every time."""

    rounds: int = 4
    rate: float = 2e-3
    seconds: float | None = None
    seed: int = 0


def heal_blocks(
    model: Model,
    original: Original,
    codecs: dict[str, StreamCodec],
    windows: Tokens,
    settings: BlockSettings,
    kept: Path,
    progress: Progress = lambda done, total, what: None,
) -> Student:
    """The student with all its layers healed; its embedding and head are rounded, no more. windows: token ids int32
    (count, tokens). kept: a file for the layers that are done, from which a run that was killed goes on.

    NotFinite where a layer diverges."""
    spec = model.spec
    grids = Grids(codecs)
    by_name = {tensor.name: tensor for tensor in model.tensors}
    embedding = grids.matrix(model, by_name["embedding.weight"])
    output = None if spec.tied else grids.matrix(model, by_name["output.weight"])
    walk = Walk(model, windows, embedding().detach().numpy())
    reference = Walk(model, windows, read_matrix(model, by_name["embedding.weight"]))
    layers: list[StudentLayer] = []
    done = load_saved(kept)
    begun = time.monotonic()
    for number in range(spec.layers):
        layer = student_layer(model, grids, number, {})
        reference.advance(layer_weights(model, number))
        until = None
        if settings.seconds is not None:
            until = begun + settings.seconds * (number + 1) / spec.layers
        if number < len(done):
            layer.load_state_dict(done[number])
            what = "done before"
        else:
            tables = original.tables(windows.shape[1])
            before, after = _tune(layer, walk.hidden, reference.hidden, tables, settings, until)
            what = f"error {before:.4f} to {after:.4f}"
            done.append({name: value.clone() for name, value in layer.state_dict().items()})
            save_whole(kept, done)
        walk.advance({name: value.detach() for name, value in layer.weights().items()})
        layers.append(layer)
        progress(number + 1, spec.layers, f"layer {number}, {what}")
    norm = torch.from_numpy(read_matrix(model, by_name["norm.weight"])[0].copy())
    return Student(original, layers, embedding, norm, output)


def _tune(
    layer: StudentLayer,
    hidden: Tensor,
    target: Tensor,
    tables: tuple[Tensor, Tensor],
    settings: BlockSettings,
    until: float | None,
) -> tuple[float, float]:
    """Trains one layer. hidden, target: float32 (windows, tokens, hidden). Returns the mean error of the first and of
    the last round."""
    optimiser = torch.optim.AdamW(rated(layer, settings.rate), betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    count, tokens, _ = hidden.shape
    at_once = max(1, _STEP_TOKENS // tokens)
    random = np.random.default_rng([settings.seed, 1])
    steps = -(-count // at_once)
    errors = []
    begun = time.monotonic()
    for round_ in range(settings.rounds):
        order = random.permutation(count)
        total = 0.0
        for step in range(steps):
            done = (round_ * steps + step) / (settings.rounds * steps)
            if until is not None:
                done = max(done, min(1.0, (time.monotonic() - begun) / max(until - begun, 1e-9)))
            warm = min(1.0, (round_ * steps + step + 1) / _WARMUP)
            for group in optimiser.param_groups:
                cosine = _LOWEST_RATE + (1 - _LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * done))
                group["lr"] = settings.rate * group["share"] * warm * cosine
            chosen = torch.from_numpy(order[step * at_once : (step + 1) * at_once])
            with bf16_products(hidden.device):
                loss = distance(layer(hidden[chosen], *tables, False), target[chosen])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
            if not bool(torch.isfinite(norm)):
                raise NotFinite("the gradient of a layer is not finite: training diverged", "lower `rate`")
            optimiser.step()
            total += float(loss.detach()) * len(chosen)
        errors.append(total / count)
        if until is not None and time.monotonic() >= until:
            break
    return errors[0], errors[-1]
