"""A tokenizer of Hugging Face's library beside ours, compiled from its files."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from mobile_bundle.tokenizer import CompiledTokenizer, compile_tokenizer
from support.tokenizer_library import SKIP_SPECIAL, Tokenizer


class Pair:
    """A Hugging Face tokenizer and ours, compiled from its files."""

    def __init__(self, folder: Path) -> None:
        self.theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.theirs.no_truncation()
        self.theirs.no_padding()
        config = folder / "config.json"
        self.compiled: CompiledTokenizer = compile_tokenizer(
            folder, json.loads(config.read_text()) if config.exists() else {}
        )
        self.ours = Tokenizer(self.compiled.data)

    def check(self, texts: list[str], special: bool = True, decode: bool = True, sample: int = 1) -> None:
        """The same ids and, decoded, the same texts. Of the texts every `sample`th is streamed too."""
        expected = self.theirs.encode_batch_fast(texts, add_special_tokens=special)
        ids = [encoding.ids for encoding in expected]
        for text, numbers in zip(texts, ids, strict=True):
            assert self.ours.encode(text, special) == numbers, repr(text[:300])
        for skip in (False, True)[: 2 if sample == 1 else 1] if decode else ():
            decoded = self.theirs.decode_batch(ids, skip_special_tokens=skip)
            for place, (numbers, text) in enumerate(zip(ids, decoded, strict=True)):
                assert self.ours.decode(numbers, skip) == text, numbers[:50]
                if place % sample == 0 and len(numbers) < 200:
                    assert "".join(self.ours.stream(numbers, SKIP_SPECIAL * skip)) == text, numbers
