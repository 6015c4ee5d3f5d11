"""mobile-run serve: conversations that outlive their process."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from mobile_bundle.native.engine import Model
from mobile_bundle.native.tokenizer import Tokenizer
from support.serve import prompt_of, serving

PROMPT = "The history of the city"


def tokens(events: list[dict[str, Any]]) -> list[int]:
    return [event["id"] for event in events if event["event"] == "token"]


def text(events: list[dict[str, Any]]) -> str:
    return "".join(event["text"] for event in events if event["event"] == "token")


def test_a_conversation_goes_on_in_another_process(bundle, tmp_path):
    path = tmp_path / "a.state"
    options = {"max_new_tokens": 10, "ignore_eos": True, "temperature": 0.9, "seed": 4}
    with serving(bundle("affine-4bit")) as server:
        first = server.ask(prompt=PROMPT, **options)
        saved = server.ask(save=str(path))[0]
        longer = PROMPT + text(first) + " and its people"
        expected = server.ask(prompt=longer, **options)
        assert saved["action"] == "saved"
        assert saved["tokens"] == prompt_of(first)["tokens"] + 9  # the last token of an answer is never fed
        assert saved["bytes"] == path.stat().st_size == first[-1]["state_bytes"]
        assert server.end() == 0
    with serving(bundle("affine-4bit"), "--threads", "1", "--prefill-chunk", "5") as server:
        resumed = server.ask(resume=str(path))[0]
        assert (resumed["action"], resumed["tokens"]) == ("resumed", saved["tokens"])
        again = server.ask(prompt=longer, **options)
        assert prompt_of(again)["kept_tokens"] == prompt_of(expected)["kept_tokens"] > 0
        assert tokens(again) == tokens(expected)
        # and what is not in it is read as ever
        assert prompt_of(server.ask(prompt="Water is", **options))["kept_tokens"] == 0


def test_a_state_does_not_take_the_place_of_what_is_no_file(bundle, tmp_path):
    """A rename would: of a device, for root."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with serving(bundle("affine-4bit")) as server:
        server.ask(prompt=PROMPT, max_new_tokens=2)
        for target in (path, tmp_path):
            refused = server.ask(save=str(target))[0]
            assert (refused["event"], refused["kind"]) == ("error", "io")
            assert refused["message"] == f"{target}: cannot be written: not a regular file"
    assert path.is_fifo()
    assert list(tmp_path.iterdir()) == [path]


def test_a_state_that_cannot_be_used_ends_nothing(bundle, tmp_path):
    path = tmp_path / "a.state"
    with serving(bundle("affine-4bit")) as server:
        refused = server.ask(save=str(path))[0]
        assert (refused["kind"], "nothing has been read" in refused["message"]) == ("argument", True)
        expected = server.ask(prompt=PROMPT, max_new_tokens=4)
        assert server.ask(save=str(path))[0]["action"] == "saved"
        whole = path.read_bytes()
        for data in (b"", whole[:-1], b"x" * 100, whole[:5000] + b"\0\1\2\3" + whole[5004:]):
            path.write_bytes(data)
            refused = server.ask(resume=str(path))[0]
            assert refused["kind"] == "format"
            assert str(path) in refused["message"]
        again = server.ask(prompt=PROMPT, max_new_tokens=4)
        assert tokens(again) == tokens(expected)
        assert prompt_of(again)["kept_tokens"] == prompt_of(again)["tokens"] - 1
        assert server.ask(resume=str(tmp_path / "none"))[0]["kind"] == "io"
        assert server.ask(save=str(tmp_path / "none" / "a"))[0]["kind"] == "io"
        path.write_bytes(whole)
    for options in (("--kv", "f16"), ("--context", "4")):
        with serving(bundle("affine-4bit"), *options) as server:
            assert server.ask(resume=str(path))[0]["kind"] == "format"


@pytest.fixture(scope="module")
def with_system(bundle, tmp_path_factory) -> tuple[Path, int]:
    """A bundle that carries the state of a text, as a build makes it, and the tokens of that text."""
    directory = tmp_path_factory.mktemp("system") / "a.mbundle"
    shutil.copytree(bundle("affine-4bit"), directory)
    tokenizer = Tokenizer(directory / "tokenizer.bin")
    ids = tokenizer.encode(PROMPT, special=True)
    tokenizer.close()
    with Model(directory) as model, model.session() as session:
        session.feed(ids)
        session.save(ids, directory / "system.state")
    return directory, len(ids)


def test_the_state_of_a_system_prompt_is_taken_up(bundle, with_system):
    directory, known = with_system
    longer = PROMPT + " is long, and"
    with serving(bundle("affine-4bit")) as server:
        expected = server.ask(prompt=longer, max_new_tokens=8)
        other = server.ask(prompt="Water is", max_new_tokens=8)
    with serving(directory) as server:
        for _ in range(2):
            answer = server.ask(prompt=longer, max_new_tokens=8)
            assert prompt_of(answer)["kept_tokens"] >= known
            assert tokens(answer) == tokens(expected)
            # after something else it is taken up again
            assert tokens(server.ask(prompt="Water is", max_new_tokens=8)) == tokens(other)
        assert prompt_of(server.ask(prompt=PROMPT, max_new_tokens=1))["kept_tokens"] == known - 1


def test_a_system_state_that_does_not_fit_is_left_alone(bundle, with_system, tmp_path):
    directory, _ = with_system
    damaged = tmp_path / "b.mbundle"
    shutil.copytree(directory, damaged)
    data = bytearray((damaged / "system.state").read_bytes())
    struct.pack_into("<I", data, 5000, 12345)
    (damaged / "system.state").write_bytes(data)
    for path, options in ((directory, ("--kv", "f16")), (damaged, ())):
        with serving(bundle("affine-4bit"), *options) as server:
            expected = server.ask(prompt=PROMPT, max_new_tokens=8)
        with serving(path, *options) as server:
            answer = server.ask(prompt=PROMPT, max_new_tokens=8)
            assert prompt_of(answer)["kept_tokens"] == 0
            assert tokens(answer) == tokens(expected)
