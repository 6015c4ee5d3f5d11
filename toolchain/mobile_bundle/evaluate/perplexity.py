"""Perplexity on windows of a text.

Every token but the first of each window (corpus/windows.py) is scored; perplexity is exp of the mean negative
log-likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import ArgumentError, NotFinite
from mobile_bundle.native.engine import Model

CHUNK = 64
"""Tokens computed together."""
LARGEST_LOG = 700
"""Of a perplexity that float64 can hold."""


@dataclass(frozen=True)
class Perplexity:
    """perplexity over `tokens` scored tokens in `windows` windows of `context` tokens."""

    perplexity: float
    tokens: int
    windows: int
    context: int


def negative_log_likelihood(logits: NDArray[np.float32], targets: NDArray[np.int32]) -> float:
    """Sum over rows of -log softmax(logits)[target]; logits float32 (rows, vocabulary), targets int32 (rows,)."""
    most = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - most).sum(axis=1, dtype=np.float64)) + most[:, 0]
    return float((log_sum - logits[np.arange(len(targets)), targets]).sum())


def measure(
    model: Model,
    windows: NDArray[np.int32],
    kv_type: str = "int8",
    threads: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Perplexity:
    """Perplexity of the model on token windows int32 (count, context). progress(done, total) counts windows.

    Raises UserError when the model's context is shorter than the windows, or its logits are not finite."""
    count, context = windows.shape
    if context > model.context:
        raise ArgumentError(f"`context` {context} is too large: this model was trained for {model.context} tokens")
    total = 0.0
    with model.session(context, threads, CHUNK, kv_type, all_logits=True) as session:
        for index, window in enumerate(windows):
            session.rewind(0)
            for start in range(0, context - 1, CHUNK):
                stop = min(start + CHUNK, context - 1)
                logits = session.feed_all(window[start:stop])
                total += negative_log_likelihood(logits, window[start + 1 : stop + 1])
            progress(index + 1, count)
    scored = count * (context - 1)
    if not total / scored < LARGEST_LOG:
        raise NotFinite("the model computes logits that are not finite: its weights are damaged")
    return Perplexity(math.exp(total / scored), scored, count, context)
