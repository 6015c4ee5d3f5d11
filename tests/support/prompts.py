"""Prompts of exact lengths, of the English text that ships with the tool."""

from __future__ import annotations

import lzma
from pathlib import Path

import mobile_bundle
from mobile_bundle.native.tokenizer import Tokenizer


def prompt_tokens(directory: Path, count: int) -> list[int]:
    """The first `count` tokens of the text in the bundle's own tokenizer, BOS first."""
    text = lzma.decompress(Path(mobile_bundle.__path__[0], "calibrate/default.txt.xz").read_bytes()).decode("utf-8")
    tokenizer = Tokenizer(directory / "tokenizer.bin")
    ids = tokenizer.encode(text[: 12 * count + 100], special=True)
    tokenizer.close()
    return [int(i) for i in ids[:count]]
