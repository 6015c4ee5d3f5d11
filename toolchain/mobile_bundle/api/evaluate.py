"""Measures how good a bundle is, alone or against the model that it was built from."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

from mobile_bundle.api.stop import Cancel, is_cancelled
from mobile_bundle.corpus.windows import token_windows
from mobile_bundle.errors import Cancelled
from mobile_bundle.evaluate.divergence import Divergence, compare
from mobile_bundle.evaluate.perplexity import Perplexity, measure
from mobile_bundle.models.hub import is_hub_id, local_model
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
    revision: str | None = None,
    progress: Callable[[Step], None] = lambda step: None,
    cancel: Cancel = None,
) -> Perplexity | Divergence:
    """Perplexity on a text; with `against` a Divergence, which compares with that model too.

    model, against: a bundle, or a checkpoint directory, GGUF file or model of the hub, which is coded as `raw` for
    this. revision: a branch, a tag or a commit, for those of both that come from the hub. context: tokens
    per window; windows: how many at most (0: all of the text, in which a line of U+001E alone separates documents).
    progress: called with every Step. UserError for what cannot be read or compared; Cancelled."""

    def step(done: Step) -> None:
        progress(done)
        if is_cancelled(cancel):
            raise Cancelled()

    stage = Listener(step).stage
    if revision is not None and against is not None and is_hub_id(against) and not is_hub_id(model):
        path = local_model(model)  # the revision is the original's
    else:
        path = local_model(model, revision, stage("downloading"))
    original_path = None
    if against is not None:
        of_hub = revision if is_hub_id(against) else None
        original_path = local_model(against, of_hub, stage("downloading the original"))
    with ExitStack() as stack:
        opened, tokenizer, bos = stack.enter_context(open_for_evaluation(path, stage("coding weights")))
        cut = token_windows(tokenizer, bos, text, context, windows)
        if original_path is None:
            count = stage("perplexity")
            return measure(opened, cut, kv, threads, lambda done, total: count(done, total, ""))
        original, _, _ = stack.enter_context(open_for_evaluation(original_path, stage("coding the original")))
        count = stage("comparing")
        return compare(opened, original, cut, kv, threads, lambda done, total: count(done, total, ""))
