"""Without a GPU: where the training of the whole model begins (`method` blocks).

From rounding it has to learn again what rounding took, which takes tokens: the more weights, the more. The calibrated
code has lost less, but leaves less to train: its codes stay. So what counts is how many tokens the time allows for each
weight."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from mobile_bundle.healing.decoders import Original, Student
from mobile_bundle.healing.matrix import Matrix
from mobile_bundle.healing.mixture import Tokens
from mobile_bundle.healing.training import Distillation
from mobile_bundle.healing.world import bf16_products

TOKENS_PER_WEIGHT = 0.01
"""From so many on, training from rounding ends lower (docs/HEALING.md: measured on models of 6 and 135 million)."""
_MEASURED = 2
"""Sequences whose time is taken, after one that warms up."""


@dataclass(frozen=True)
class Way:
    """calibrated: whether training begins with the calibrated code, or with rounding. tokens: that the whole model will
    be trained on, about."""

    calibrated: bool
    tokens: float


def choose_way(student: Student, tokens: float) -> Way:
    """tokens: that there is time for."""
    weights = sum(module.weight.numel() for module in student.modules() if isinstance(module, Matrix))
    return Way(tokens < TOKENS_PER_WEIGHT * weights, tokens)


def seconds_per_token(student: Student, original: Original, sequence: Tokens) -> float:
    """Of training the whole model, on this machine as it is now. sequence: token ids int32 (1, tokens). Leaves the
    student as it was."""
    module, tokens = Distillation(student, original), torch.from_numpy(sequence.astype("int64"))
    took = []
    for _ in range(1 + _MEASURED):
        begun = time.monotonic()
        with bf16_products(tokens.device):
            loss = module(tokens, original.hidden(tokens))
        loss.backward()
        student.zero_grad(set_to_none=True)
        took.append(time.monotonic() - begun)
    return min(took[1:]) / tokens.numel()


def finish_rate(rate: float, steps: float) -> float:
    """Of learning, for so many steps of the whole model behind the layers or the calibrated code. rate: from rounding.
    A high one first undoes what is there, which a short run does not make up for (wiki-6m, 2 bits: 0.6 of it was best
    for 250 steps)."""
    return 0.6 * rate * min(1.0, math.sqrt(steps / 250))
