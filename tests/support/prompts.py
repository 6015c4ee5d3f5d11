"""Prompts of exact lengths, of the English text that ships with the tool."""

from __future__ import annotations

from pathlib import Path

from mobile_bundle.corpus.text import DEFAULT_TEXT, read_text
from mobile_bundle.native.tokenizer import Tokenizer


def prompt_tokens(directory: Path, count: int) -> list[int]:
    """The first `count` tokens of the text in the bundle's own tokenizer, BOS first."""
    text = read_text(DEFAULT_TEXT)
    tokenizer = Tokenizer(directory / "tokenizer.bin")
    ids = tokenizer.encode(text[: 12 * count + 100], special=True)
    tokenizer.close()
    return [int(i) for i in ids[:count]]
