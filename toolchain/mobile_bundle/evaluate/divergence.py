"""How far a compressed model is from its original: perplexity of both, Kullback-Leibler divergence, and how often their
best tokens agree.

Perplexity on one text can stay the same while answers change; the divergence of the two distributions cannot. Both
models see the same windows of text (corpus/windows.py makes them)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
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
    """As `compare_all`, of one model."""
    return compare_all([model], original, windows, kv_type, threads, progress)[0]


def compare_all(
    models: Sequence[Model],
    original: Model,
    windows: NDArray[np.int32],
    kv_type: str = "int8",
    threads: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Divergence]:
    """Each of the models against original, which has a KV cache in f16 and reads the windows once for all of them:
    token ids int32 (count, context).

    progress(done, total) counts windows. Raises UserError when the vocabularies differ, when a model's context is
    shorter than the windows, or when logits are not finite."""
    count, context = windows.shape
    for model in models:
        if model.vocabulary != original.vocabulary:
            raise InputError(
                f"the model has {model.vocabulary} tokens, its original {original.vocabulary}: they cannot be compared"
            )
    longest = min(model.context for model in (*models, original))
    if context > longest:
        raise ArgumentError(f"`context` {context} is too large: these models were trained for {longest} tokens")
    found = [_Tokens([], [], []) for _ in models]
    with ExitStack() as stack:

        def opened(model: Model, kv: str) -> Session:
            return stack.enter_context(model.session(context, threads, CHUNK, kv, all_logits=True))

        own, other = [opened(model, kv_type) for model in models], opened(original, "f16")
        for index, window in enumerate(windows):
            for session in (*own, other):
                session.rewind(0)
            for start in range(0, context - 1, CHUNK):
                stop = min(start + CHUNK, context - 1)
                p, targets = _log_softmax(other, window[start:stop]), window[start + 1 : stop + 1]
                for session, tokens in zip(own, found, strict=True):
                    tokens.add(_log_softmax(session, window[start:stop]), p, targets)
            progress(index + 1, count)
    return [tokens.mean(count, context) for tokens in found]


@dataclass(frozen=True)
class _Tokens:
    """Of the tokens that were scored so far, in pieces. losses: log probabilities of the text's tokens, (2, n), the
    model's and the original's; divergences: (n,); agreeing: (n,)."""

    losses: list[Rows]
    divergences: list[Rows]
    agreeing: list[NDArray[np.bool_]]

    def add(self, q: Rows, p: Rows, targets: NDArray[np.int32]) -> None:
        """q, p: log probabilities (n, vocabulary) of the model and of the original."""
        rows = np.arange(len(targets))
        self.losses.append(np.stack([q[rows, targets], p[rows, targets]]))
        self.divergences.append((np.exp(p) * (p - q)).sum(axis=1))
        self.agreeing.append(p.argmax(axis=1) == q.argmax(axis=1))

    def mean(self, windows: int, context: int) -> Divergence:
        loss, divergence = np.concatenate(self.losses, axis=1), np.concatenate(self.divergences)
        if not (np.isfinite(loss).all() and np.isfinite(divergence).all()):
            raise NotFinite("a model computes logits that are not finite: its weights are damaged")
        tokens, share = divergence.size, float(np.concatenate(self.agreeing).mean())
        return Divergence(
            math.exp(-float(loss[0].mean(dtype=np.float64))),
            math.exp(-float(loss[1].mean(dtype=np.float64))),
            float(divergence.mean(dtype=np.float64)),
            float(divergence.std(dtype=np.float64)) / math.sqrt(tokens),
            float(np.quantile(divergence, 0.99)),
            share,
            math.sqrt(share * (1 - share) / tokens),
            tokens,
            windows,
            context,
        )


def _log_softmax(session: Session, tokens: NDArray[np.int32]) -> Rows:
    """float32 (tokens, vocabulary), after the session has read the tokens."""
    raw = session.feed_all(tokens)
    logits: Rows = raw - raw.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True, dtype=np.float64)).astype(np.float32)
    return logits
