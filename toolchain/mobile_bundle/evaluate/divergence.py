"""How far a compressed model is from its original: perplexity of both, Kullback-Leibler divergence, and how often their
best tokens agree.

Perplexity on one text can stay the same while answers change; the divergence of the two distributions cannot. Both
models see the same windows of text (corpus/windows.py makes them)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import ArgumentError, InputError, NotFinite
from mobile_bundle.evaluate.perplexity import CHUNK
from mobile_bundle.native.engine import Model, Session

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Divergence:
    """On `tokens` scored tokens. perplexity, original_perplexity: of the two models. kl: mean Kullback-Leibler
    divergence KL(original || model) in nats per token, kl_error: its standard error over the tokens; kl_99: its 99th
    percentile. agreement: share of tokens at which both models hold the same next token for the best; agreement_error:
    its standard error. windows, context: what was read."""

    perplexity: float
    original_perplexity: float
    kl: float
    kl_error: float
    kl_99: float
    agreement: float
    agreement_error: float
    tokens: int
    windows: int
    context: int

    @property
    def increase(self) -> float:
        """By what share the perplexity is above the original's."""
        return self.perplexity / self.original_perplexity - 1


def compare(
    model: Model,
    original: Model,
    windows: NDArray[np.int32],
    kv_type: str = "int8",
    threads: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Divergence:
    """model against original, which has a KV cache in f16, on token windows int32 (count, context).

    progress(done, total) counts windows. Raises UserError when the vocabularies differ, when a model's context is
    shorter than the windows, or when logits are not finite."""
    count, context = windows.shape
    if model.vocabulary != original.vocabulary:
        raise InputError(
            f"the model has {model.vocabulary} tokens, its original {original.vocabulary}: they cannot be compared"
        )
    longest = min(model.context, original.context)
    if context > longest:
        raise ArgumentError(f"`context` {context} is too large: these models were trained for {longest} tokens")
    losses: list[Rows] = []
    divergences: list[Rows] = []
    agreeing: list[NDArray[np.bool_]] = []
    with (
        model.session(context, threads, CHUNK, kv_type, all_logits=True) as own,
        original.session(context, threads, CHUNK, "f16", all_logits=True) as other,
    ):
        for index, window in enumerate(windows):
            own.rewind(0)
            other.rewind(0)
            for start in range(0, context - 1, CHUNK):
                stop = min(start + CHUNK, context - 1)
                q, p = _log_softmax(own, window[start:stop]), _log_softmax(other, window[start:stop])
                targets = window[start + 1 : stop + 1]
                rows = np.arange(len(targets))
                losses.append(np.stack([q[rows, targets], p[rows, targets]]))
                divergences.append((np.exp(p) * (p - q)).sum(axis=1))
                agreeing.append(p.argmax(axis=1) == q.argmax(axis=1))
            progress(index + 1, count)
    loss, divergence, agrees = np.concatenate(losses, axis=1), np.concatenate(divergences), np.concatenate(agreeing)
    if not (np.isfinite(loss).all() and np.isfinite(divergence).all()):
        raise NotFinite("a model computes logits that are not finite: its weights are damaged")
    tokens, share = divergence.size, float(agrees.mean())
    return Divergence(
        math.exp(-float(loss[0].mean(dtype=np.float64))),
        math.exp(-float(loss[1].mean(dtype=np.float64))),
        float(divergence.mean(dtype=np.float64)),
        float(divergence.std(dtype=np.float64)) / math.sqrt(tokens),
        float(np.quantile(divergence, 0.99)),
        share,
        math.sqrt(share * (1 - share) / tokens),
        tokens,
        count,
        context,
    )


def _log_softmax(session: Session, tokens: NDArray[np.int32]) -> Rows:
    """float32 (tokens, vocabulary), after the session has read the tokens."""
    raw = session.feed_all(tokens)
    logits: Rows = raw - raw.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True, dtype=np.float64)).astype(np.float32)
    return logits
