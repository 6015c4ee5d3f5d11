"""Precompiled normalizers: what the runtime makes of a text is what the `tokenizers` package makes of it."""

from __future__ import annotations

import base64
import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from mobile_bundle.errors import UserError
from mobile_bundle.native.tokenizer import normalized_text
from mobile_bundle.tokenizer.binary import write_tokenizer
from mobile_bundle.tokenizer.charsmap import decode_charsmap
from mobile_bundle.tokenizer.charsmap_proof import prove_charsmap
from mobile_bundle.tokenizer.steps import CHARSMAP, Steps
from mobile_bundle.tokenizer.vocabulary import Vocabulary
from support.charsmaps import REPLACEMENTS, charsmap
from support.texts import random_texts
from support.tokenizer_pair import Pair
from support.trained_tokenizers import SAMPLE

PARTS = [
    *"aexy \t\r\n©®❤™①ﬁ가각힣\u0300\u0301\u0308\u200b\u200c\u200d\u00ad\ufe0f\u1100\u1112\u1160\u1161\u11a8",
    *"\u0915\u0937\u094d\u093c\u0903\u09a4\u09cd\u0600\u06dd\u0e33\U000110bd👩🏽🇩\U00016d63\U000e0020\U0001f468",
]  # fmt: skip
"""Of every class that a grapheme cluster is made of."""


def normalised(data: bytes, texts: list[str]) -> list[str]:
    steps = Steps(flags=CHARSMAP, charsmap=data)
    return normalized_text(write_tokenizer(Vocabulary({"a": 0}, {}, [], set(), -1, 0), steps, None), texts)


def clusters(chance: random.Random, count: int) -> list[str]:
    return ["".join(chance.choices(PARTS, k=chance.randrange(1, 9))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(12))
def test_tables_by_chance(seed: int) -> None:
    chance = random.Random(seed)
    keys = [*chance.sample(PARTS, 20), *clusters(chance, 40)]
    data = charsmap({key: "".join(chance.choices("rsté ", k=chance.randrange(4))) for key in keys})
    theirs = tokenizers.normalizers.Precompiled(data)
    texts = [*clusters(chance, 4000), *random_texts(seed, 300)]
    for text, found in zip(texts, normalised(data, texts), strict=True):
        assert found == theirs.normalize_str(text), ascii(text)


def test_borders_of_clusters() -> None:
    """With a table of every part, the number of its replacements tells where a short cluster ends."""
    data = charsmap(dict.fromkeys(PARTS, "Y"))
    theirs = tokenizers.normalizers.Precompiled(data)
    texts = clusters(random.Random(3), 20_000)
    for text, found in zip(texts, normalised(data, texts), strict=True):
        assert found == theirs.normalize_str(text), ascii(text)


def test_every_code_point() -> None:
    """Its class, seen by what it does between others."""
    points = [chr(point) for point in range(1, 0x110000) if not 0xD800 <= point < 0xE000]
    chance = random.Random(4)
    data = charsmap(REPLACEMENTS)
    theirs = tokenizers.normalizers.Precompiled(data)
    texts = []
    for at in range(0, len(points), 2000):
        before, behind = chance.choice("ax©\u0915\u1100가\u0600"), chance.choice("\u0301 e\u0301x\u0300")
        texts.append("".join(f"{before}{point}{behind}" for point in points[at : at + 2000]))
    for at, (text, found) in enumerate(zip(texts, normalised(data, texts), strict=True)):
        assert found == theirs.normalize_str(text), hex(2000 * at)


def test_the_table_of_sentencepiece(tmp_path: Path) -> None:
    """nmt_nfkc, as in T5 and XLM-R: proved as at a build, and by whole texts."""
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text(SAMPLE)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "sp"), model_type="unigram", vocab_size=300,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    data = table_of((tmp_path / "sp.model").read_bytes())
    assert len(data) > 200_000
    prove_charsmap(decode_charsmap(base64.b64encode(data).decode()))
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sp.model"))
    vocab = [[model.id_to_piece(number), model.get_score(number)] for number in range(model.get_piece_size())]
    description = {
        "version": "1.0", "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()},
            {"type": "Strip", "strip_left": False, "strip_right": True},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"},
        ]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False},
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    pair = Pair(tmp_path)
    pair.check(
        [*SAMPLE.splitlines(), "\uff46\uff55\uff4c\uff4c \ufb01 \u2460 \u338f\u3000\u2026", *random_texts(5, 3000)]
    )


def table_of(model: bytes) -> bytes:
    """precompiled_charsmap (field 2) of the normalizer_spec (field 3) of a SentencePiece model."""
    return dict(fields(dict(fields(model))[3]))[2]


def fields(message: bytes) -> list[tuple[int, Any]]:
    """(number, value) of a protobuf message."""

    def number(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            value |= (message[at] & 0x7F) << shift
            shift += 7
            at += 1
            if message[at - 1] < 0x80:
                return value, at

    found, at = [], 0
    while at < len(message):
        key, at = number(at)
        value: Any
        if key & 7 == 2:
            size, at = number(at)
            value, at = message[at : at + size], at + size
        elif key & 7 == 0:
            value, at = number(at)
        else:
            size = 4 if key & 7 == 5 else 8
            value, at = message[at : at + size], at + size
        found.append((key >> 3, value))
    return found


def test_what_is_no_table_is_refused() -> None:
    data = charsmap(REPLACEMENTS)
    assert decode_charsmap(base64.b64encode(data).decode()) == data
    for wrong, message in (
        (b"", "not a table"),
        (data[:100], "not a table"),
        (bytes(4) + data[4:], "not a table"),
        (struct.pack("<I", 6) + data[4:], "not a table"),
        (data + b"\xff", "are not UTF-8"),
        (data + b"r" * 256, "more than 255 bytes"),
    ):
        with pytest.raises(UserError, match=message) as error:
            decode_charsmap(base64.b64encode(wrong).decode())
        assert "\n" not in str(error.value)
    for value in (3, "?", "AAA"):
        with pytest.raises(UserError, match="not a table"):
            decode_charsmap(value)


def test_a_damaged_trie_reads_nothing_else() -> None:
    """Wherever units lead, the text that comes out is UTF-8."""
    data = charsmap(REPLACEMENTS)
    chance = random.Random(6)
    texts = ["".join(REPLACEMENTS) * 3, *clusters(chance, 50)]
    for _ in range(200):
        changed = bytearray(data)
        used = [at for at in range(4, len(data), 4) if any(data[at : at + 4])]
        for _ in range(5):
            changed[chance.choice(used) + chance.randrange(4)] = chance.randrange(256)
        try:
            normalised(bytes(changed), texts)
        except UserError:  # the texts are no longer UTF-8
            continue
