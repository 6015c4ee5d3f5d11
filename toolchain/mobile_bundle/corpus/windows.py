"""Windows of tokens, cut from a text.

A text is a sequence of documents separated by a line that holds only U+001E (no such line: one document).
Each document is tokenised alone and preceded by BOS, where the model has one. The concatenation is cut into windows of
N tokens that do not overlap. A ragged end is dropped.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import ArgumentError, InputError
from mobile_bundle.native.tokenizer import Tokenizer

DOCUMENT_SEPARATOR = "\n\x1e\n"


def token_windows(tokenizer: Tokenizer, bos: int | None, text: str, context: int, windows: int) -> NDArray[np.int32]:
    """Token ids int32 (windows found, context); at most `windows` (0: all). UserError when not even one is full."""
    if context < 2:
        raise ArgumentError(
            f"`context` {context}: a window has at least 2 tokens, as the first is what the next follows"
        )
    wanted = context * windows if windows else None
    pieces: list[NDArray[np.int32]] = []
    total = 0
    for document in text.split(DOCUMENT_SEPARATOR):
        if not document.strip():
            continue
        ids = after_bos(tokenizer.encode(document), bos)
        pieces.append(ids)
        total += len(ids)
        if wanted is not None and total >= wanted:
            break
    found = total // context if windows == 0 else min(total // context, windows)
    if found == 0:
        raise InputError(
            f"the text has {total} tokens, less than one window of {context}",
            "give a longer text, or a smaller `context`",
        )
    return np.concatenate(pieces)[: found * context].reshape(found, context)


def after_bos(ids: NDArray[np.int32], bos: int | None) -> NDArray[np.int32]:
    """A document's tokens behind BOS, where the model has one."""
    return ids if bos is None else np.concatenate([np.array([bos], np.int32), ids])
