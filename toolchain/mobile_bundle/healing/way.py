"""Without a GPU: where the training of the whole model begins (`method` blocks).

From rounding it has to learn again what rounding took, which takes tokens: the more weights, the more. The calibrated
code has lost less, but leaves less to train: its codes stay. So what counts is how many tokens the time allows for each
weight."""

from __future__ import annotations

import time

import torch

from mobile_bundle.healing.decoders import Original, Student
from mobile_bundle.healing.mixture import Tokens
from mobile_bundle.healing.training import Distillation
from mobile_bundle.healing.world import bf16_products
from mobile_bundle.models import Model

_TOKENS_PER_WEIGHT = 0.015
"""From so many on, training from rounding ends lower (docs/HEALING.md: measured on models of 6 and 135 million)."""
_MEASURED = 2
"""Sequences whose time is taken, after one that warms up."""


def allows_rounding(model: Model, tokens: float) -> bool:
    """Whether so many tokens of training are enough to begin with rounding."""
    weights = sum(tensor.rows * tensor.columns for tensor in model.tensors if tensor.role != "vector")
    return tokens >= _TOKENS_PER_WEIGHT * weights


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
