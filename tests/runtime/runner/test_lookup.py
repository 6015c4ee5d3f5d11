"""Prompt lookup: the same answer, token for token, whatever is guessed."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from mobile_bundle.native.engine import Model
from mobile_bundle.native.programs import bundle_runner
from mobile_bundle.pipeline.weights import build_weights
from support.checkpoints import write_tiny
from support.serve import serving

TEXT = (
    "The history of the city begins with the first settlers, who came from the north. "
    "The history of the city begins with the first settlers, who came from the north. The history of the"
)
SAMPLING = ({}, {"temperature": 0.9, "seed": 3}, {"temperature": 0.4, "top_k": 5, "repetition_penalty": 1.2, "seed": 8})


def ids(events: list[dict[str, Any]]) -> list[int]:
    return [event["id"] for event in events if event["event"] == "token"]


@pytest.mark.parametrize("recipe", ["affine-4bit", "bitnet"])
def test_the_answer_is_the_same_and_some_of_it_was_guessed(bundle, recipe):
    asked = [
        {"prompt": prompt, "max_new_tokens": count, "ignore_eos": True, **sampling}
        for prompt in (TEXT, "Water is") for count in (1, 2, 90) for sampling in SAMPLING
    ]  # fmt: skip
    with serving(bundle(recipe), "--threads", "1") as plain:
        expected = [plain.ask(**request) for request in asked]
    for lookup in ("1", "5", "31"):
        with serving(bundle(recipe), "--threads", "1", "--lookup", lookup) as server:
            answers = [server.ask(**request) for request in asked]
        assert [ids(answer) for answer in answers] == [ids(answer) for answer in expected]
        # what is kept for the next request is right, too
        assert [answer[0]["kept_tokens"] for answer in answers] == [answer[0]["kept_tokens"] for answer in expected]
        assert all(answer[-1]["right_guesses"] <= answer[-1]["guessed_tokens"] for answer in answers)
        assert [answer[-1]["reason"] for answer in answers] == [answer[-1]["reason"] for answer in expected]


def test_guesses_are_made_where_a_text_repeats_itself(bundle):
    """A greedy answer of a small model soon repeats itself. Whether guessing pays is a matter of time: it may not here,
    so a few answers are tried."""
    with serving(bundle("raw"), "--threads", "1", "--lookup", "12") as server:
        right = 0
        for _ in range(10):
            done = server.ask(prompt=TEXT, max_new_tokens=200, ignore_eos=True)[-1]
            right += done["right_guesses"]
            if right:
                break
        assert right > 0


def test_the_end_of_the_context_and_generate(bundle):
    directory = bundle("raw")
    outputs = []
    for lookup in ("0", "8"):
        command = [bundle_runner(directory), "generate", directory, "--prompt", TEXT, "--max-new-tokens", "400"]
        process = subprocess.run(
            [*command, "--ignore-eos", "--context", "120", "--lookup", lookup, "--json"],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
        assert '"reason":"context"' in process.stdout
        outputs.append([line for line in process.stdout.splitlines() if '"token"' in line[:20]])
    assert outputs[0] == outputs[1]


def test_it_is_refused_where_it_cannot_be(bundle):
    directory = bundle("affine-4bit")
    for arguments, words in (
        (("--lookup", "32"), "not a value"),
        (("--lookup", "8", "--prefill-chunk", "8"), "room for 7"),
    ):
        process = subprocess.run(
            [bundle_runner(directory), "generate", directory, "--prompt", "a", *arguments],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
        assert process.returncode == 2
        assert words in process.stderr


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_a_window_is_taken_back_from(name, tmp_path):
    """Guesses that were wrong, behind the end of a window: what was let go of is not needed."""
    write_tiny(tmp_path / "model", name)
    build_weights(tmp_path / "model", "raw", tmp_path / "weights.ptd")
    with Model(tmp_path / "weights.ptd") as model, model.session(context=64, prefill_chunk=8) as session:
        expected = [session.feed([i]).copy() for i in range(1, 50)]
        session.rewind()
        for i in range(1, 50):
            if i % 7 == 0:
                session.feed([i, 3, 1, 4, 1, 5, 9, 2])
                assert session.rewind_point(i - 1) == i - 1
                session.rewind(i - 1)
            assert (session.feed([i]) == expected[i - 1]).all()
