"""Measures how good a bundle is, alone or against the model that it was built from."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from mobile_bundle.api.stop import Cancel, is_cancelled
from mobile_bundle.corpus.windows import token_windows
from mobile_bundle.errors import Cancelled
from mobile_bundle.evaluate.divergence import Divergence, compare
from mobile_bundle.evaluate.perplexity import Perplexity, measure
from mobile_bundle.pipeline.request import Listener, Step
from mobile_bundle.pipeline.uncompressed import open_for_evaluation


def evaluate(
    model: str | os.PathLike[str],
    text: str,
    *,
    against: str | os.PathLike[str] | None = None,
    context: int = 512,
    windows: int = 0,
    kv: str = "int8",
    threads: int = 0,
    progress: Callable[[Step], None] = lambda step: None,
    cancel: Cancel = None,
) -> Perplexity | Divergence:
    """Perplexity on a text; with `against` a Divergence, which compares with that model too.

    model, against: a bundle, or a checkpoint directory or GGUF file, which is coded as `raw` for this. context: tokens
    per window; windows: how many at most (0: all of the text, in which a line of U+001E alone separates documents).
    progress: called with every Step. UserError for what cannot be read or compared; Cancelled."""

    def step(done: Step) -> None:
        progress(done)
        if is_cancelled(cancel):
            raise Cancelled()

    stage = Listener(step).stage
    with ExitStack() as stack:
        opened, tokenizer, bos = stack.enter_context(open_for_evaluation(Path(model), stage("coding weights")))
        cut = token_windows(tokenizer, bos, text, context, windows)
        if against is None:
            count = stage("perplexity")
            return measure(opened, cut, kv, threads, lambda done, total: count(done, total, ""))
        original, _, _ = stack.enter_context(open_for_evaluation(Path(against), stage("coding the original")))
        count = stage("comparing")
        return compare(opened, original, cut, kv, threads, lambda done, total: count(done, total, ""))
