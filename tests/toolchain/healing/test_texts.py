"""What is trained on: the user's text, the model's own, and the order in which sequences come."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.corpus.openings import open_turn
from mobile_bundle.errors import InputError
from mobile_bundle.models import open_model
from mobile_bundle.native.tokenizer import Tokenizer
from support.checkpoints import write_tiny
from support.paths import DATA
from support.small_checkpoint import write_checkpoint

torch = pytest.importorskip("torch")

from mobile_bundle.healing import own_text as own  # noqa: E402
from mobile_bundle.healing import writer  # noqa: E402
from mobile_bundle.healing.decoders import Original  # noqa: E402
from mobile_bundle.healing.mixture import Mixture, Part  # noqa: E402
from mobile_bundle.healing.text import openings_of_text, text_sequences  # noqa: E402

CPU = torch.device("cpu")


def test_every_paragraph_begins_a_document_and_a_heading_is_followed_by_its_paragraph(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Lakes\nA lake is a body of water.\n\nIt is surrounded by land.\n\x1e\nRivers\nA river flows.\n")
    tokenizer = Tokenizer(DATA / "tokenizer_with_chat_pieces.bin")
    try:
        found = openings_of_text(text, tokenizer, 0, 6)
        begun = ["Lakes\nA lake is a body of water.", "A lake is a body of water.", "It is surrounded by land."]
        begun += ["Rivers\nA river flows.", "A river flows."]
        assert [each.tolist() for each in found] == [[0, *tokenizer.encode(text)[:6].tolist()] for text in begun]
    finally:
        tokenizer.close()


def numbered(count: int, first: int) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.int32)[:, None] * np.ones(4, np.int32)


def test_sources_take_turns_by_weight_and_nothing_comes_twice_in_a_round() -> None:
    mixture = Mixture([Part(numbered(30, 0), 3), Part(numbered(7, 100), 1)], seed=1)
    read = mixture.sequences(0, 80)[:, 0]
    assert (read < 100).sum() == 60
    own_numbers = read[read < 100]
    assert sorted(own_numbers[:30]) == sorted(own_numbers[30:]) == list(range(30))
    assert list(own_numbers[:30]) != list(own_numbers[30:])
    for begin in (0, 13, 40):  # a function of the number alone
        again = Mixture([Part(numbered(30, 0), 3), Part(numbered(7, 100), 1)], seed=1)
        assert (again.sequences(begin, begin + 9)[:, 0] == read[begin : begin + 9]).all()
    assert mixture.rounds(80) == pytest.approx(20 / 7)  # 60 of 30, 20 of 7
    assert Mixture([Part(numbered(30, 0), 3)], seed=1).rounds(45) == 1.5
    other = Mixture([Part(numbered(30, 0), 3), Part(numbered(7, 100), 1)], seed=2)
    assert (other.sequences(0, 80)[:, 0] != read).any()


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "gemma2", "gemma3", "lfm2", "granite", "smollm3"])
def test_the_cache_gives_what_the_whole_sequence_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """At a temperature near 0, each token is the best one by the decoder that reads all of it at once; so it is where a
    step looks at more of the cache than is written, and where the writer writes a second time."""
    pytest.importorskip("transformers")
    monkeypatch.setattr(writer, "_PIECE", 10)
    with open_model(write_tiny(tmp_path / name, name)) as model:
        original = Original(model, CPU, torch.float32)
        openings = [np.array([5], np.int32), np.array([7, 8, 9], np.int32)]
        writing = writer.Writer(original, 2, 32, 1e-5)
        first, tokens = (writing.write(openings, seed, pytest.fail) for seed in (0, 1))
        assert (first == tokens).all()
        assert tokens[1, :3].tolist() == [7, 8, 9]
        best = (original.hidden(torch.from_numpy(tokens.astype(np.int64))) @ original.head.T).argmax(-1).numpy()
        assert (best[0, :-1] == tokens[0, 1:]).all()
        assert (best[1, 2:-1] == tokens[1, 3:]).all()


def test_own_text_is_kept_and_found_again(tmp_path: Path) -> None:
    with open_model(write_checkpoint(tmp_path / "m")) as model:
        original = Original(model, CPU, torch.float32)
        openings = own.Openings(np.array([3, 4], np.int32), [np.array([0], np.int32)])
        asked = {"tokens": 300, "length": 16, "at_once": 8, "seed": 4}
        files = own.own_text(original, openings, tmp_path / "a", **asked)
        assert len(files) == 3
        first = np.concatenate([np.load(path) for path in files])
        assert {0, 3} == set(first[:, 0].tolist())
        files[1].unlink()  # a run that was killed there
        dates = [path.stat().st_mtime_ns for path in (files[0], files[2])]
        own.own_text(original, openings, tmp_path / "a", **asked)
        assert [path.stat().st_mtime_ns for path in (files[0], files[2])] == dates
        assert (np.concatenate([np.load(path) for path in files]) == first).all()
        shared = [own.own_text(original, openings, tmp_path / "b", share=(rank, 2), **asked) for rank in (0, 1)]
        assert (np.concatenate([np.load(path) for path in shared[0]]) == first).all()


def test_sequences_that_come_twice_are_left_out() -> None:
    twice = np.concatenate([numbered(3, 0), numbered(2, 1), numbered(1, 9)])
    assert own.distinct(twice)[:, 0].tolist() == [0, 1, 2, 9]


@pytest.fixture
def chat() -> Tokenizer:
    return Tokenizer(DATA / "tokenizer_with_chat_pieces.bin")


def test_conversations_become_sequences(tmp_path: Path, chat: Tokenizer) -> None:
    lines = [
        {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]},
        [{"role": "user", "content": "And you?"}],
    ] * 20
    path = tmp_path / "chat.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    found = text_sequences(path, chat, None, 2, 16)
    text = chat.decode(found.reshape(-1))
    assert "Good day." in text
    assert "And you?" in text
    opening = open_turn(chat)
    assert opening is not None
    assert chat.decode(opening) in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: "),
        ('{"messages": []}', "a conversation is"),
        ('[{"role": "robot", "content": "x"}]', "a message needs a role"),
        ('[{"role": "user", "content": 3}]', "a message needs a role"),
    ],
)
def test_what_is_no_conversation_is_refused(tmp_path: Path, chat: Tokenizer, line: str, message: str) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text(line)
    with pytest.raises(InputError, match=message):
        text_sequences(path, chat, None, None, 16)
