"""Compares the compiled splits with the `tokenizers` package before a bundle is built from them."""

from __future__ import annotations

import functools
import json
import random

import numpy as np

from mobile_bundle.errors import UnsupportedError
from mobile_bundle.native.tokenizer import split_pieces
from mobile_bundle.tokenizer.binary import write_tokenizer
from mobile_bundle.tokenizer.byte_alphabet import BYTE_ALPHABET, CHARACTER_OF_BYTE
from mobile_bundle.tokenizer.splits import CompiledSplits
from mobile_bundle.tokenizer.splits.automaton import MATCH_ENDS, NONE, START
from mobile_bundle.tokenizer.splits.character_sets import library
from mobile_bundle.tokenizer.steps import BYTE_LEVEL, SPLIT_TABLES, Steps
from mobile_bundle.tokenizer.vocabulary import Vocabulary

_TRANSITIONS, _RANDOM = 6000, 2000
"""Texts that lead through the automata's transitions, and texts of characters by chance."""
_PER_CLASS = 8
_PLAIN = (
    "The quick brown fox, it's said, jumped over 13 lazy dogs in 2024; WE'LL see that they've 1,000,000 more.",
    "Les élèves n'étaient pas là. Ça va? Übergröße, naïve café, Ελληνικά, русский язык, 中文字符, 日本語テキスト.",
    "    def f(x):\n        return x ** 2  # comment\n\n\tTabs and   spaces\r\n  \n  ",
    "HTTPServer camelCase iPhone XMLHttpRequest ABCdef ²³¹½ x²+y³ 12345678 1²2 ٣٤٥ e\u0301a\u0308 👩‍👧🏽 \u3000\u00a0",
)


@functools.lru_cache(maxsize=8)
def prove_splits(splits: CompiledSplits, parts: str, byte_level: bool) -> None:
    """parts: what `splits` was compiled from, as a JSON list of pre-tokenizers.

    Raises UnsupportedError, one line, when a text falls into other pieces in the runtime than in the package."""
    texts = _samples(splits)
    pre_tokenizer = {"type": "Sequence", "pretokenizers": json.loads(parts)}
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    description = {"version": "1.0", "added_tokens": [], "pre_tokenizer": pre_tokenizer, "model": empty}
    theirs = library().Tokenizer.from_str(json.dumps(description)).pre_tokenizer
    ours = split_pieces(tokenizer_of_bytes(splits, byte_level), texts)
    for text, found in zip(texts, ours, strict=True):
        expected = [piece for piece, _ in theirs.pre_tokenize_str(text)]
        shown = [_shown(piece, byte_level) for piece in found]
        if shown != expected:
            raise UnsupportedError(
                f"tokenizer.json: its split is not compiled exactly: {text[:60]!r} falls into {shown[:8]!r}, and by "
                f"the tokenizers package into {expected[:8]!r}"
            )


def _shown(piece: bytes, byte_level: bool) -> str:
    return "".join(CHARACTER_OF_BYTE[byte] for byte in piece) if byte_level else piece.decode()


def tokenizer_of_bytes(splits: CompiledSplits, byte_level: bool) -> bytes:
    """A tokenizer.bin with the splits and no more tokens than it needs."""
    steps = Steps(flags=BYTE_LEVEL * byte_level, split=SPLIT_TABLES, splits=splits)
    return write_tokenizer(Vocabulary(dict(BYTE_ALPHABET), {}, [], set(), -1, 0), steps, None)


def _samples(splits: CompiledSplits) -> list[str]:
    """Plain texts, every transition of every automaton, texts by chance, and the code points where classes change."""
    chance = random.Random(1)
    characters = _characters(splits, chance)
    texts = list(_PLAIN)
    for step, automaton in zip(splits.steps, splits.automata, strict=True):
        if step.on_bytes:
            continue  # its classes are those of bytes; the texts by chance have to do
        paths = _paths(automaton.next)
        pairs = [(state, column) for state in paths for column in characters]
        for state, column in chance.sample(pairs, min(len(pairs), _TRANSITIONS)):
            tail = chance.choices(list(characters), k=chance.randrange(4))
            texts.append("".join(chance.choice(characters[c]) for c in [*paths[state], column, *tail]))
    pool = list(characters)
    for _ in range(_RANDOM):
        columns = chance.choices(pool, k=chance.choice([1, 2, 3, 5, 8, 20, 60]))
        texts.append("".join(chance.choice(characters[column]) for column in columns))
        texts.append("".join(map(chr, chance.choices(range(1, 0x800), k=12))))
    edges = np.flatnonzero(np.diff(splits.classes)).tolist()
    points = [chr(point) for edge in edges for point in (edge, edge + 1) if not 0xD800 <= point < 0xE000]
    texts += ["".join(points[at : at + 200]) for at in range(0, len(points), 200)]
    texts += ["a".join(points[at : at + 200]) for at in range(0, len(points), 200)]
    return texts


def _characters(splits: CompiledSplits, chance: random.Random) -> dict[int, list[str]]:
    """Some characters of each class: the first, the last and others by chance."""
    found = {}
    for number in range(int(splits.classes.max()) + 1):
        points = np.flatnonzero(splits.classes == number)
        points = points[(points < 0xD800) | (points >= 0xE000)]
        if len(points):
            some = [points[0], points[-1], *chance.choices(points.tolist(), k=_PER_CLASS)]
            found[number] = sorted({chr(point) for point in some})
    return found


def _paths(table: np.ndarray[tuple[int, ...], np.dtype[np.uint16]]) -> dict[int, list[int]]:
    """A shortest way of classes to every state that can be reached."""
    paths: dict[int, list[int]] = {START: []}
    for state in (reached := [START]):
        for column, entry in enumerate(table[state].tolist()):
            target = entry & ~MATCH_ENDS
            if target != NONE and target not in paths:
                paths[target] = [*paths[state], column]
                reached.append(target)
    return paths
