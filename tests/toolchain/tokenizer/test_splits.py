"""Split expressions compiled into tables: exact, or refused in one line that says why."""

from __future__ import annotations

import dataclasses
import json
import lzma
import re
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from mobile_bundle.corpus.text import read_text
from mobile_bundle.errors import UnsupportedError, UserError
from mobile_bundle.native.tokenizer import split_pieces
from mobile_bundle.tokenizer.proof import prove_splits, tokenizer_of_bytes
from mobile_bundle.tokenizer.splits import SplitStep, compile_splits
from support.paths import DATA, VALIDATION_TEXT
from support.texts import random_texts
from support.tokenizer_pair import Pair
from support.trained_tokenizers import DEEPSEEK_V3, O200K

CUT = sorted((DATA / "tokenizers").glob("*.json.xz"))
"""The real tokenizer.json of published models with their first 2,500 merges."""


def step(expression: str) -> SplitStep:
    return SplitStep(expression=expression)


def parts(*expressions: str) -> str:
    return json.dumps(
        [
            {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
            for expression in expressions
        ]
    )


def pieces(expression: str, texts: list[str]) -> list[list[str]]:
    data = tokenizer_of_bytes(compile_splits((step(expression),)), False)
    return [[piece.decode() for piece in found] for found in split_pieces(data, texts)]


@pytest.mark.parametrize("path", CUT, ids=lambda path: path.name.split(".")[0])
def test_published(path: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(lzma.decompress(path.read_bytes()))
    pair = Pair(tmp_path)
    for text in (VALIDATION_TEXT, DATA / "swahili.txt.xz"):
        pair.check(read_text(text).split("\n"), sample=50)
    pair.check(random_texts(11, 5000), sample=20)
    chance = np.random.default_rng(6)
    for size in chance.integers(1, 40, 500):
        data = chance.bytes(size) + "é🎉".encode()[: size % 7]
        assert pair.ours.encode(data) == pair.ours.encode(data.decode("utf-8", errors="replace"))


@pytest.mark.parametrize(
    "expression",
    [
        r"a.*?b|\s+?(?=\S)|[^a\s]{2,4}?|\p{N}{2}?x|.",  # lazy; x{n}? is (?:x{n})?
        r"\p{N}{1,3}+|(?>\s+)x?|\w++",  # x{n,m}+ is (?:x{n,m})+
        r"a?+b|a{,3}c|b{2,}|(?:ab|a)(?:c|bcd)d*",
        r"(?i:k|'ll|[dm])|(?i)q(?-i:R)|Z",
        r"\s+$|\s+(?=x|$)|\s+\z|(?!\d)\w|\d{2}(?!\d|$)|\x{41}B|\u0043",
        r"[\p{Lu}&&[^A-C]]+|[a-c[x-z]]+|[[:punct:]]+|\P{L}|[^\n]",
        r"(?:(?:x|y)+z|x)(?:|q)",
    ],
)
def test_expressions(expression: str) -> None:
    prove_splits(compile_splits((step(expression),)), parts(expression), False)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("aAbB'sStT1 2\r\n\t/.é一Ⅷ٣\u0301ǅʰ\u200b🎉", max_size=30), max_size=20))
def test_any_text(texts: list[str]) -> None:
    for expression in (O200K, DEEPSEEK_V3[2]):
        split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(expression), "isolated")
        expected = [[piece for piece, _ in split.pre_tokenize_str(text)] for text in texts]
        assert pieces(expression, texts) == expected


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        (r"(a)\1", "'\\1'"),
        (r"(?<=a)b", "'(?<="),
        (r"^a", "looks back"),
        (r"a(?=bc)", "look-ahead of more than one character"),
        (r"(?:ab)++", "possessive repeat of more than one character"),
        (r"a\b", "'\\b'"),
        (r"a*", "matches the empty text"),
        (r"(?:abc)*d|a", "grows with the square"),
        (r"a{1,1000}", "{1,1000}"),
        (r"(?i:ss)", "'ss' in any case"),
        (r"(?i:[ß])", "more than one character"),
        (r"[]a]", "write"),
        (r"(a", "does not end"),
        (r"[a", "does not end"),
        (r"a)", "')' without"),
        (r"\p{Nonsense}", "does not read"),
        (r"a{x", "as a character"),
        ("(" * 40 + "a" + ")" * 40, "too many groups"),
        (r"(?:(?:(?:a{1,60}){1,60}){1,60})b", "too large"),
        ("a" * 30_000, "too long"),
    ],
)
def test_refused_by_name(expression: str, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=re.escape(reason)) as error:
        compile_splits((step(expression),))
    assert "\n" not in str(error.value)


def test_too_many_steps() -> None:
    with pytest.raises(UnsupportedError, match="9 steps"):
        compile_splits((step("a"),) * 9)


def test_a_wrong_table_is_refused() -> None:
    """A match that ends one character too early, in any state of white space, does not pass the proof."""
    good = compile_splits((step(r"\s+(?!\S)|\s+|\p{N}{1,3}|[^\s\p{N}]+"),))
    table = good.automata[0].next
    place = good.section.index(table.tobytes())
    prove_splits(good, parts(good.steps[0].expression), False)
    dead_ends = [(state, column) for state in range(2, len(table)) for column in range(table.shape[1] - 1)]
    dead_ends = [entry for entry in dead_ends if table[entry] == 0]
    assert dead_ends
    for state, column in dead_ends:
        section = bytearray(good.section)
        section[place + 2 * (state * table.shape[1] + column) + 1] |= 0x80  # MB_TOKEN_MATCH_ENDS
        with pytest.raises(UnsupportedError, match="not compiled exactly"):
            prove_splits(dataclasses.replace(good, section=bytes(section)), parts(good.steps[0].expression), False)


def test_a_section_that_ends_early_is_refused() -> None:
    """At every place where another of its tables would be cut, the reader goes no further."""
    good = compile_splits((step(r"\p{N}{1,3}|[^\p{N}]+"),))
    for size in (*range(0, 400, 4), *range(400, len(good.section), 256), len(good.section) - 4):
        with pytest.raises(UserError, match="split tables are impossible"):
            prove_splits(dataclasses.replace(good, section=good.section[:size]), parts(good.steps[0].expression), False)


def test_long_texts_take_linear_time() -> None:
    """Each of these would take some 10^10 steps if a match that was waited for in vain were waited for again."""
    length = 200_000
    for expression, text in (
        (r"a.*b|a", "a" * length),
        (r"a[^b]*b", "a" * length),
        (r"\s*[\r\n]+|\s", " " * length),
        (r"x\s*y|x\s*z|x|\s", "x " * (length // 2)),
    ):
        found = pieces(expression, [text])[0]
        assert "".join(found) == text
