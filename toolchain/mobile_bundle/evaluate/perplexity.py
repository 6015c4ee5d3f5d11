"""Perplexity on windows of a text.

Protocol: a text is a sequence of documents separated by a line that holds only U+001E (no such line: one document).
Each document is tokenised alone and preceded by BOS, where the model has one. The concatenation is cut into windows of
N tokens that do not overlap; every token but the first of each window is scored; perplexity is exp of the mean
negative log-likelihood. A ragged end is dropped.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobile_bundle import input_files
from mobile_bundle.errors import UserError
from mobile_bundle.native import Model, Tokenizer

DOCUMENT_SEPARATOR = "\n\x1e\n"
CHUNK = 64
"""Tokens computed together."""
LARGEST_LOG = 700
"""Of a perplexity that float64 can hold."""
MOST_TEXT = 512 << 20
"""Bytes of a text, unpacked."""


@dataclass(frozen=True)
class Perplexity:
    """perplexity over `tokens` scored tokens in `windows` windows of `context` tokens."""

    perplexity: float
    tokens: int
    windows: int
    context: int


def token_windows(tokenizer: Tokenizer, bos: int | None, text: str, context: int, windows: int) -> NDArray[np.int32]:
    """Token ids int32 (windows found, context); at most `windows` (0: all). UserError when not even one is full."""
    wanted = context * windows if windows else None
    pieces: list[NDArray[np.int32]] = []
    total = 0
    for document in text.split(DOCUMENT_SEPARATOR):
        if not document.strip():
            continue
        ids = tokenizer.encode(document)
        if bos is not None:
            ids = np.concatenate([np.array([bos], np.int32), ids])
        pieces.append(ids)
        total += len(ids)
        if wanted is not None and total >= wanted:
            break
    found = total // context if windows == 0 else min(total // context, windows)
    if found == 0:
        raise UserError(f"the text has {total} tokens: not one window of {context}; give a longer text or --context")
    return np.concatenate(pieces)[: found * context].reshape(found, context)


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
        raise UserError(f"windows of {context} tokens: this model was trained for {model.context} at most (--context)")
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
        raise UserError("the model computes logits that are not finite, or no text at all: its weights are damaged")
    return Perplexity(math.exp(total / scored), scored, count, context)


def read_text(path: Path) -> str:
    """The text, UTF-8 or xz-compressed UTF-8, of at most MOST_TEXT bytes. Raises UserError when it cannot be read."""
    try:
        if path.suffix != ".xz":
            return input_files.read_text(path, MOST_TEXT)
        with open(input_files.open_regular(path), "rb") as packed, lzma.open(packed) as file:
            data = file.read(MOST_TEXT + 1)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MOST_TEXT:
        raise UserError(f"{path} has more than {MOST_TEXT:,} bytes of text, the most that is read; give a part of it")
    return input_files.decode_text(data, path)
