"""Compares a table of characters, as the runtime applies it, with the `tokenizers` package."""

from __future__ import annotations

import base64
import functools
import json
import random

from mobile_bundle.errors import UnsupportedError
from mobile_bundle.native.tokenizer import normalized_text
from mobile_bundle.tokenizer.binary import write_tokenizer
from mobile_bundle.tokenizer.splits.character_sets import library
from mobile_bundle.tokenizer.steps import CHARSMAP, Steps
from mobile_bundle.tokenizer.vocabulary import Vocabulary

_TEXTS = 4000
_PLAIN = (
    "The quick brown fox\u2026 \ufb01 \ufb02 \u00bd \u00b2 \u2460 \u2167 \u338f \uff46\uff55\uff4c\uff4c \ufdfa \u00a0",
    "\u3000\u200b\u200d\ufeff\u00ad\r\n\t\x07 e\u0301 a\u0308 \u0600a \u00a9 \u2122\u0301 \U0001f469\u200d\U0001f467",
)


@functools.lru_cache(maxsize=4)
def prove_charsmap(data: bytes) -> None:
    """data: a table that decode_charsmap took.

    Raises UnsupportedError, one line, when the runtime makes another text of one than the package."""
    tokenizer = write_tokenizer(Vocabulary({"a": 0}, {}, [], set(), -1, 0), Steps(flags=CHARSMAP, charsmap=data), None)
    value = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    theirs = (
        library().Tokenizer.from_str(json.dumps({"version": "1.0", "normalizer": value, "model": empty})).normalizer
    )
    texts = _samples()
    for text, found in zip(texts, normalized_text(tokenizer, texts), strict=True):
        expected = theirs.normalize_str(text)
        if found != expected:
            raise UnsupportedError(
                f"tokenizer.json: its Precompiled normalizer is not followed exactly: {text[:60]!r} becomes "
                f"{found[:60]!r}, and by the tokenizers package {expected[:60]!r}"
            )


@functools.cache
def _samples() -> list[str]:
    """Every code point, by itself and behind a letter; and texts of what clusters are made of, by chance."""
    chance = random.Random(2)
    points = [chr(point) for point in range(1, 0x32000) if not 0xD800 <= point < 0xE000]
    points += [chr(point) for point in range(0xE0000, 0xE0200)]
    texts = list(_PLAIN)
    for at in range(0, len(points), 500):
        block = points[at : at + 500]
        texts += ["\n".join(block), "a".join(block), "\u0301\n".join(block)]
    parts = [*"ae \r\n\u0300\u0301\u200d\u200c©®❤👩\u1100\u1160\u11a8가각\u0915\u094d\u0937\u0903\u0600\u00ad𑇂ﬁ①½"]
    for _ in range(_TEXTS):
        some = [*parts, *chance.choices(points, k=8)]
        texts.append("".join(chance.choices(some, k=chance.randrange(1, 12))))
    return texts
