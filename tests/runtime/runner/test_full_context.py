"""A full context goes on: with `full_context` "move" the oldest exchanges leave without the rest being read again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.paths import EXAMPLE
from support.serve import prompt_of, serving

TEMPLATE = (
    "{% for message in messages %}<|endoftext|>{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|endoftext|>assistant:{% endif %}"
)
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def chatty(bundle, tmp_path_factory) -> Path:
    model = tmp_path_factory.mktemp("models") / "full-chat"
    shutil.copytree(EXAMPLE, model)
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    directory: Path = bundle("affine-4bit", model)
    return directory


def text(events: list[dict[str, Any]]) -> str:
    return "".join(event["text"] for event in events if event["event"] == "token")


def question(number: int) -> dict[str, str]:
    return {"role": "user", "content": f"What happened in the city in the year {1300 + 37 * number}?"}


def converse(server: Any, turns: int, **options: Any) -> tuple[list[dict[str, str]], list[list[dict[str, Any]]]]:
    """A conversation, and the events of its answers."""
    messages, answers = [SYSTEM], []
    for turn in range(turns):
        messages = [*messages, question(turn)]
        answers.append(server.ask(messages=messages, max_new_tokens=12, ignore_eos=True, **options))
        messages.append({"role": "assistant", "content": text(answers[-1]).strip()})
    return messages, answers


@pytest.mark.parametrize("options", [[], ["--kv", "int4"], ["--kv", "f16"], ["--lookup", "8"]])
def test_a_long_conversation_is_not_read_again(chatty, options):
    with serving(chatty, "--context", "192", *options) as server:
        _, answers = converse(server, 14, full_context="move")
        prompts = [prompt_of(answer) for answer in answers]
        full = [each for each in prompts if each["dropped_messages"]]
        assert len(full) > 3
        for each in full:  # only the new question, and what the answer's own tokens are not when it is written again
            assert each["tokens"] - each["kept_tokens"] < 64
        assert all(answer[-1]["reason"] == "length" for answer in answers)
        _, again = converse(server, 14)
        assert min(prompt_of(a)["kept_tokens"] for a in again if prompt_of(a)["dropped_messages"]) < 30


def test_who_does_not_ask_for_it_gets_what_reading_gives(chatty):
    with serving(chatty, "--context", "192") as server, serving(chatty, "--context", "192") as fresh:
        messages, _ = converse(server, 12, full_context="move")
        follow = [*messages, question(99)]
        assert text(server.ask(messages=follow, max_new_tokens=20, ignore_eos=True)) == text(
            fresh.ask(messages=follow, max_new_tokens=20, ignore_eos=True)
        )


@pytest.mark.parametrize("options", [[], ["--lookup", "8"]])
def test_an_answer_goes_on_in_a_full_context(chatty, options):
    with serving(chatty, "--context", "192", *options) as server:
        messages, _ = converse(server, 5, full_context="move")
        asked = {"messages": [*messages, question(7)], "max_new_tokens": 120, "ignore_eos": True}
        cut = server.ask(**asked)
        assert cut[-1]["reason"] == "context"
        whole = server.ask(**asked, full_context="move")
        assert whole[-1]["reason"] == "length"
        assert whole[-1]["tokens"] == 120
        assert prompt_of(whole)["tokens"] + 120 > 192
        assert text(whole).startswith(text(cut))
        assert whole[-1]["predicted_peak_bytes"] >= cut[-1]["predicted_peak_bytes"]
        # where only the question is left there is nothing that could leave
        alone = server.ask(messages=[question(1)], max_new_tokens=400, ignore_eos=True, full_context="move")
        assert alone[-1]["reason"] == "context"


def test_what_was_moved_is_not_saved(chatty, tmp_path):
    state = tmp_path / "a.state"
    with serving(chatty, "--context", "192") as server:
        messages, _ = converse(server, 2, full_context="move")
        assert server.ask(save=str(state))[-1]["action"] == "saved"
        converse(server, 12, full_context="move")
        error = server.ask(save=str(tmp_path / "b.state"))[-1]
        assert error["kind"] == "argument"
        assert "moved" in error["message"]
        assert not (tmp_path / "b.state").exists()
        assert server.ask(resume=str(state))[-1]["action"] == "resumed"
        assert server.ask(save=str(tmp_path / "b.state"))[-1]["action"] == "saved"
        assert (tmp_path / "b.state").read_bytes() == state.read_bytes()
        assert prompt_of(server.ask(messages=[*messages, question(3)], max_new_tokens=2))["kept_tokens"] > 20


def test_what_cannot_be_is_refused(chatty):
    with serving(chatty) as server:
        for members, message in (
            ({"messages": [question(1)], "full_context": "drop"}, 'neither "read" nor "move"'),
            ({"messages": [question(1)], "full_context": True}, 'neither "read" nor "move"'),
            ({"prompt": "a", "full_context": "move"}, "needs messages"),
        ):
            (error,) = server.ask(**members)
            assert message in error["message"]
        plain = server.ask(messages=[question(1)], max_new_tokens=5)
        assert text(server.ask(messages=[question(1)], max_new_tokens=5, full_context="read")) == text(plain)
