"""A vocabulary of the texts that are needed: the same ids after renaming, the same logits, smaller pieces elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from mobile_bundle import build
from mobile_bundle.corpus.languages import vocabulary_texts
from mobile_bundle.corpus.text import read_text
from mobile_bundle.errors import ArgumentError, InputError, UnsupportedError
from mobile_bundle.models import open_model
from mobile_bundle.native.engine import Model
from mobile_bundle.native.tokenizer import Tokenizer
from mobile_bundle.planning.estimate import checkpoint_shape
from mobile_bundle.vocabulary import smaller_checkpoint, smaller_tokenizer
from support.paths import DATA, EXAMPLE, STORIES, VALIDATION_TEXT
from support.texts import random_texts
from support.trained_tokenizers import SAMPLE, TRAINED

ENGLISH = read_text(VALIDATION_TEXT)[:6000]


@pytest.mark.parametrize("model", [EXAMPLE, STORIES], ids=["byte-level", "sentencepiece"])
def test_ids_and_rows(model: Path, tmp_path: Path) -> None:
    reduction = smaller_checkpoint(model, [ENGLISH], "", tmp_path / "small")
    before = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    after = tokenizers.Tokenizer.from_file(str(tmp_path / "small/tokenizer.json"))
    rows = np.array(reduction.rows)
    assert len(rows) < reduction.old_rows
    ids = after.encode(ENGLISH, add_special_tokens=False).ids
    assert rows[ids].tolist() == before.encode(ENGLISH, add_special_tokens=False).ids
    assert reduction.tokens_per_word == pytest.approx(len(ids) / len(ENGLISH.split()))
    assert [after.id_to_token(number) for number in range(len(rows))] == [before.id_to_token(int(n)) for n in rows]
    with open_model(model) as whole, open_model(tmp_path / "small") as small:
        for old, new in zip(whole.tensors, small.tensors, strict=True):
            expected = np.concatenate(list(whole.source(old).chunks(64)))
            expected = expected[rows] if old.role in ("embedding", "output") else expected
            assert np.array_equal(np.concatenate(list(small.source(new).chunks(64))), expected), old.name


def test_other_text_keeps_its_characters(tmp_path: Path) -> None:
    """Smaller pieces, but no character is lost: bytes are always there."""
    smaller_tokenizer(EXAMPLE, [ENGLISH], "", tmp_path / "small")
    after = tokenizers.Tokenizer.from_file(str(tmp_path / "small/tokenizer.json"))
    for text in (read_text(DATA / "swahili.txt.xz")[:5000], *random_texts(3, 300)):
        assert after.decode(after.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("name", ["o200k", "llama3", "deepseek-v3", "gemma", "llama2", "metaspace first"])
def test_merges_of_kept_tokens(name: str, tmp_path: Path) -> None:
    """Every text of kept tokens has the same ids, not only the one that they were taken from."""
    model = tmp_path / "m"
    model.mkdir()
    before = TRAINED[name]()
    before.save(str(model / "tokenizer.json"))
    (model / "config.json").write_text(json.dumps({"vocab_size": before.get_vocab_size() + 7, "eos_token_id": 1}))
    lines = SAMPLE.split("\n")[:4]
    reduction = smaller_tokenizer(model, lines[:2], "", tmp_path / "small")
    after = tokenizers.Tokenizer.from_file(str(tmp_path / "small/tokenizer.json"))
    assert 256 <= len(reduction.rows) < before.get_vocab_size()
    kept = set(reduction.rows)
    exact = 0
    for text in (*lines, *(word for line in lines for word in line.split()), *random_texts(7, 200)):
        expected = before.encode(text, add_special_tokens=False).ids
        if kept.issuperset(expected):
            ids = after.encode(text, add_special_tokens=False).ids
            assert [reduction.rows[number] for number in ids] == expected, text
            exact += 1
    assert exact > 40
    config = json.loads((tmp_path / "small/config.json").read_text())
    assert config == {"vocab_size": len(reduction.rows), "eos_token_id": reduction.rows.index(1)}


def test_bundle(tmp_path: Path) -> None:
    """The engine's logits of kept tokens are those of the whole model, bit for bit; the manifest says what is saved."""
    text = tmp_path / "text.txt"
    text.write_text(ENGLISH)
    whole = build(EXAMPLE, tmp_path / "whole.mbundle", recipe="affine-8bit", jobs=1)
    small = build(EXAMPLE, tmp_path / "small.mbundle", recipe="affine-8bit", jobs=1, vocabulary_from=text)
    rows = smaller_tokenizer(EXAMPLE, [ENGLISH], "", tmp_path / "again").rows
    assert small.manifest.model.name == whole.manifest.model.name
    note = next(note for note in small.manifest.notes if "the vocabulary has" in note)
    saved = whole.manifest.bytes - small.manifest.bytes
    assert f"saves {saved / 1e6:.1f} MB" in note
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert checkpoint_shape(EXAMPLE, [ENGLISH]).spec.vocabulary == len(rows) == small.manifest.model.vocabulary

    def run(bundle: Path) -> tuple[Any, Any]:
        tokenizer = Tokenizer(bundle / "tokenizer.bin")
        ids = tokenizer.encode(ENGLISH)[:96]
        tokenizer.close()
        with Model(bundle / "weights.ptd") as model, model.session(context=128, all_logits=True) as session:
            return ids, np.concatenate([session.feed_all(ids[at : at + 16]).copy() for at in range(0, 96, 16)])

    ids, logits = run(tmp_path / "whole.mbundle")
    small_ids, small_logits = run(tmp_path / "small.mbundle")
    assert np.array_equal(np.array(rows)[small_ids], ids)
    assert np.array_equal(small_logits, logits[:, rows])


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no text of 'sw' ships"):
        vocabulary_texts(None, ["en", "sw"])
    with pytest.raises(InputError, match="no words"):
        smaller_tokenizer(EXAMPLE, [" \n"], "", tmp_path / "a")
    model = tmp_path / "m"
    model.mkdir()
    TRAINED["unigram"]().save(str(model / "tokenizer.json"))
    (model / "config.json").write_text(json.dumps({"vocab_size": 700}))
    with pytest.raises(UnsupportedError, match="Unigram"):
        smaller_tokenizer(model, ["word"], "", tmp_path / "b")
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(UnsupportedError, match="GGUF"):
        smaller_tokenizer(gguf, ["word"], "", tmp_path / "c")
