"""How a conversation begins that the model writes itself, the user's words included, and how it is sampled."""

from __future__ import annotations

import datetime

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import UserError
from mobile_bundle.native.chat import render_chat
from mobile_bundle.native.tokenizer import Tokenizer

TEMPERATURE = 0.9
"""Of all text that a model writes itself."""
TEMPLATE_DATE = datetime.datetime(2026, 1, 1)
"""What templates write as today: fixed, so that the same model gives the same text on every day."""
_MARK = "\u2603mobile-bundle\u2603"
"""Stands for the user's words in a rendering, until it is cut there."""


def open_turn(tokenizer: Tokenizer) -> NDArray[np.int32] | None:
    """The model's template up to the user's first word: its default system message and an open turn. None without a
    template that has such a place."""
    if not tokenizer.has_chat:
        return None
    try:
        text = render_chat(tokenizer, [("user", _MARK)], None, TEMPLATE_DATE)
    except UserError:
        return None
    before, found, _ = text.partition(_MARK)
    ids = tokenizer.encode(before)
    return ids if found and len(ids) else None
