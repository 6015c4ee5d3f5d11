"""Without a GPU: where the training of the whole model begins (`method` blocks).

From rounding it has to learn again what rounding took, which takes tokens: the more weights, the more. The calibrated
code has lost less, but leaves less to train: its codes stay. So what counts is how many tokens the time allows for each
weight."""

from __future__ import annotations

import time

import torch

from mobile_bundle.healing.decoders import Original
from mobile_bundle.healing.mixture import Tokens
from mobile_bundle.healing.world import bf16_products
from mobile_bundle.models import Model

_TOKENS_PER_WEIGHT = 0.015
"""From so many on, training from rounding ends lower (docs/HEALING.md: measured on models of 6 and 135 million)."""
_READINGS = 6
"""Training takes about so many times as long as the original's reading: that itself, three times that for forward and
backward of the student, and its rounding (seven on wiki-6m)."""


def allows_rounding(model: Model, tokens: float) -> bool:
    """Whether so many tokens of training are enough to begin with rounding."""
    weights = sum(tensor.rows * tensor.columns for tensor in model.tensors if tensor.role != "vector")
    return tokens >= _TOKENS_PER_WEIGHT * weights


def seconds_per_token(original: Original, sequence: Tokens) -> float:
    """Of training the whole model, about, on this machine as it is now: by the original's reading, which takes no more
    memory. sequence: token ids int32 (1, tokens)."""
    tokens, took = torch.from_numpy(sequence.astype("int64")), []
    for _ in range(2):  # the first warms up
        begun = time.monotonic()
        with bf16_products(tokens.device):
            original.hidden(tokens)
        took.append(time.monotonic() - begun)
    return _READINGS * min(took) / tokens.numel()
