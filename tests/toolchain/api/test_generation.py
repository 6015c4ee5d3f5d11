"""Generation in Python is the runner's own: the same tokens, texts and ends as `mobile-run generate` and `serve`."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import mobile_bundle as mb
import numpy as np
import pytest
from mobile_bundle.corpus.text import read_text
from mobile_bundle.native.programs import bundle_runner
from support.chat_templates import CHAT_TEMPLATE, TEMPLATES
from support.paths import EXAMPLE
from support.serve import serving
from support.small_checkpoint import write_checkpoint

PROMPT = "The history of the city"
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is the city?"},
    {"role": "assistant", "content": "In the county."},
    {"role": "user", "content": "Größe? 東京 🎉"},
]


def with_template(folder: Path, template: str) -> Path:
    shutil.copytree(EXAMPLE, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    return folder


@pytest.fixture(scope="module")
def chatty(bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle("affine-4bit", with_template(tmp_path_factory.mktemp("models") / "api-chat", CHAT_TEMPLATE))


@pytest.fixture(scope="module")
def thinker(bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle("affine-4bit", with_template(tmp_path_factory.mktemp("models") / "api-thinker", TEMPLATES["qwen3"]))


def generated(directory: Path, *options: str) -> tuple[list[tuple[int, str]], str]:
    """([(token, text)], why it ended) of mobile-run generate."""
    process = subprocess.run(
        [str(bundle_runner(directory)), "generate", str(directory), "--json", *options],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout
    return heard([json.loads(line) for line in process.stdout.splitlines()])


def heard(events: Iterable[dict[str, Any]]) -> tuple[list[tuple[int, str]], str]:
    found = list(events)
    return [(e["id"], e["text"]) for e in found if e["event"] == "token"], found[-1]["reason"]


def said(pieces: Iterable[mb.Piece]) -> tuple[list[tuple[int, str]], str]:
    """The same of pieces: what the last one holds is an event without a token."""
    *tokens, last = pieces
    assert last.token is None
    assert all(piece.ended is None for piece in tokens)
    return [*((p.token, p.text) for p in tokens), *([(-1, last.text)] if last.text else [])], last.ended


SAMPLINGS = {
    "greedy": ((), mb.Sampling()),
    "warm": (
        ("--temperature", "0.9", "--top-p", "0.95", "--top-k", "50", "--seed", "7"),
        mb.Sampling(temperature=0.9, top_p=0.95, top_k=50, seed=7),
    ),
    "hot": (("--temperature", "3", "--seed", "18446744073709551615"), mb.Sampling(temperature=3, seed=2**64 - 1)),
    "penalised": (
        ("--repetition-penalty", "1.5", "--repetition-window", "9", "--min-p", "0.1", "--temperature", "1"),
        mb.Sampling(temperature=1, min_p=0.1, repetition_penalty=1.5, repetition_window=9),
    ),
}


@pytest.mark.parametrize("name", SAMPLINGS)
def test_the_tokens_are_the_runners(bundle, name):
    options, sampling = SAMPLINGS[name]
    directory = bundle("affine-4bit")
    with mb.open(directory).load() as model:
        for prompt in (PROMPT, "", "Größe 東京 🎉"):
            expected = generated(directory, "--prompt", prompt, "--max-new-tokens", "40", "--ignore-eos", *options)
            found = said(model.stream(prompt, max_new_tokens=40, sampling=sampling, ignore_eos=True))
            assert found == expected
            assert len([token for token, _ in found[0] if token >= 0]) == 40


def test_pieces_are_whole_characters(bundle):
    """Hot sampling gives many byte tokens: pieces neither split a character nor lose one."""
    with mb.open(bundle("affine-4bit")).load() as model:
        pieces = list(
            model.stream(PROMPT, max_new_tokens=300, sampling=mb.Sampling(temperature=20, seed=3), ignore_eos=True)
        )
        ids = [piece.token for piece in pieces if piece.token is not None]
        assert "".join(piece.text for piece in pieces) == model.decode(ids)
        assert "" in [piece.text for piece in pieces[:-1]]


def test_every_end_has_its_reason(bundle):
    directory = bundle("affine-4bit")
    with mb.open(directory).load(context=32) as model:
        assert said(model.stream(PROMPT, max_new_tokens=5))[1] == "length"
        whole = ("--prompt", PROMPT, "--max-new-tokens", "500", "--ignore-eos", "--context", "32")
        assert said(model.stream(PROMPT, max_new_tokens=500, ignore_eos=True)) == generated(directory, *whole)
        assert said(model.stream(PROMPT, max_new_tokens=500, ignore_eos=True))[1] == "context"
        stop = threading.Event()
        pieces = model.stream(PROMPT, max_new_tokens=500, cancel=stop)
        first = next(pieces)
        stop.set()
        assert (first.ended, [piece.ended for piece in pieces]) == (None, ["cancelled"])
        asked = iter([False, False, True])
        assert said(model.stream(PROMPT, cancel=lambda: next(asked)))[1] == "cancelled"


def test_an_end_token_ends_it(tmp_path):
    """Eight of the 320 tokens of a model with random weights end a text."""
    ends = {"eos_token_id": [1, 20, 40, 60, 80, 100, 120, 140]}
    checkpoint = write_checkpoint(tmp_path / "model", ends, files={"generation_config.json": ends})
    bundle = mb.build(checkpoint, tmp_path / "a.mbundle", recipe="raw")
    assert len(bundle.manifest.model.eos) == 8
    with bundle.load() as model:
        found = said(model.stream(PROMPT, max_new_tokens=200, sampling=mb.Sampling(temperature=1, seed=3)))
        options = ("--prompt", PROMPT, "--max-new-tokens", "200", "--temperature", "1", "--seed", "3")
        assert found == generated(bundle.path, *options)
        assert found[1] == "eos"
        goes_on = model.stream(PROMPT, max_new_tokens=200, sampling=mb.Sampling(temperature=1, seed=3), ignore_eos=True)
        assert said(goes_on)[1] == "length"


def test_a_conversation_is_what_serve_answers(chatty):
    with serving(chatty) as server, mb.open(chatty).load() as model:
        for count in (2, 4):  # the second one begins as the first
            events = server.ask(messages=MESSAGES[:count], max_new_tokens=24, temperature=0.8, seed=5)
            sampling = mb.Sampling(temperature=0.8, seed=5)
            pieces = list(model.chat(MESSAGES[:count], stream=True, max_new_tokens=24, sampling=sampling))
            assert said(pieces) == heard(events)
            text = model.chat(MESSAGES[:count], max_new_tokens=24, sampling=sampling)
            assert text == "".join(piece.text for piece in pieces)
        continued = [*MESSAGES, {"role": "assistant", "content": "The city is"}]
        events = server.ask(messages=continued, max_new_tokens=8)
        assert said(model.chat(continued, stream=True, max_new_tokens=8)) == heard(events)
        one = generated(chatty, "--chat", "--system", "Be brief.", "--prompt", "Hi", "--max-new-tokens", "8")
        asked = [MESSAGES[0], {"role": "user", "content": "Hi"}]
        assert said(model.chat(asked, stream=True, max_new_tokens=8)) == one


def test_thinking_is_switched(thinker, chatty):
    with serving(thinker) as server, mb.open(thinker).load() as model:
        assert model.has_thinking
        answers = set()
        for thinking in (True, False):
            events = server.ask(messages=MESSAGES[:2], thinking=thinking, max_new_tokens=8)
            found = said(model.chat(MESSAGES[:2], stream=True, thinking=thinking, max_new_tokens=8))
            assert found == heard(events)
            answers.add(str(found))
        assert len(answers) == 2
        default = heard(server.ask(messages=MESSAGES[:2], max_new_tokens=8))
        assert said(model.chat(MESSAGES[:2], stream=True, max_new_tokens=8)) == default
    with mb.open(chatty).load() as model:
        assert (model.has_chat, model.has_thinking) == (True, False)
        with pytest.raises(mb.errors.ArgumentError, match="cannot switch thinking"):
            model.chat(MESSAGES[:2], thinking=True)


def test_what_two_texts_share_changes_nothing(bundle):
    """Texts in any order, some given up half-way: the tokens are those of a model that saw nothing before."""
    texts = (PROMPT, PROMPT + " is", "Another text", PROMPT, PROMPT * 20)
    expected = []
    for text in texts:
        with mb.open(bundle("affine-4bit")).load() as model:
            expected.append(list(model.stream(text, max_new_tokens=6)))
    with mb.open(bundle("affine-4bit")).load() as model:
        for text, pieces in zip(texts, expected, strict=True):
            next(model.stream(text[:9], max_new_tokens=3))
            with pytest.raises(mb.errors.ArgumentError, match="do not fit a context"):
                list(model.stream("word " * 2000))
            assert list(model.stream(text, max_new_tokens=6)) == pieces


def test_logits(bundle):
    with mb.open(bundle("affine-4bit")).load(context=64) as model:
        ids = model.encode(PROMPT * 30)  # longer than the model's own session, and than a chunk
        assert len(ids) > 128
        logits = model.logits(ids)
        assert (logits.shape, logits.dtype) == ((len(ids), 4096), np.float32)
        for count in (1, 5, 64):
            best = next(model.stream(model.decode(ids[:count]), ignore_eos=True)).token
            assert int(logits[count - 1].argmax()) == best
        np.testing.assert_array_equal(model.logits(np.array(ids[:70])), logits[:70])
        kept = logits.copy()
        model.logits([1, 2, 3])
        np.testing.assert_array_equal(logits, kept)
        for wrong in ([], [[1]], [4096], [-1], [1.5], list(range(600))):
            with pytest.raises(mb.errors.ArgumentError):
                model.logits(wrong)


def test_perplexity_is_that_of_eval(bundle, tmp_path):
    from mobile_bundle.api.evaluate import evaluate

    text = read_text(EXAMPLE / "README.md") * 20
    steps: list[mb.Step] = []
    with mb.open(bundle("affine-4bit")).load(context=16) as model:
        found = model.perplexity(text, context=128, windows=3, progress=steps.append)
        assert found == evaluate(bundle("affine-4bit"), text, context=128, windows=3)
        assert [(step.stage, step.done, step.total) for step in steps] == [("perplexity", n, 3) for n in (1, 2, 3)]
        with pytest.raises(mb.errors.Cancelled):
            model.perplexity(text, cancel=lambda: True)
        with pytest.raises(mb.errors.InputError, match="less than one window"):
            model.perplexity("a word")
        with pytest.raises(mb.errors.ArgumentError, match="trained for 512"):
            model.perplexity(text, context=1024)


def test_a_model_belongs_to_one_thread_at_a_time(bundle):
    with mb.open(bundle("affine-4bit")).load() as model:
        started, go_on, raised = threading.Event(), threading.Event(), []

        def cancel() -> bool:
            started.set()
            go_on.wait(30)
            return False

        other = threading.Thread(target=lambda: list(model.stream(PROMPT, max_new_tokens=2, cancel=cancel)))
        other.start()
        assert started.wait(30)
        try:
            for call in (lambda: model.encode("a"), lambda: model.logits([1]), lambda: next(model.stream("a"))):
                with pytest.raises(mb.errors.ArgumentError, match="in use by another call"):
                    call()
                raised.append(call)
        finally:
            go_on.set()
            other.join()
        assert len(raised) == 3
        first = model.stream(PROMPT, max_new_tokens=9)
        next(first)
        next(model.stream("Another", max_new_tokens=9))
        with pytest.raises(mb.errors.ArgumentError, match="started another text"):
            next(first)
    for call in (lambda: model.encode("a"), lambda: next(model.stream("a"))):
        with pytest.raises(mb.errors.ArgumentError, match="closed"):
            call()
    model.close()


def test_what_cannot_be_is_refused(bundle):
    bundle_of = mb.open(bundle("affine-4bit"))
    for wrong in ({"kv": "int3"}, {"mapping": "half"}, {"context": -1}, {"context": 1 << 20}, {"threads": -2}):
        with pytest.raises(mb.errors.ArgumentError):
            bundle_of.load(**wrong)
    with bundle_of.load(kv="f16", mapping="layers", threads=1) as model:
        assert model.context == bundle_of.manifest.model.default_context
        for sampling in ({"temperature": -1}, {"top_p": 0}, {"min_p": 2}, {"top_k": -1}, {"seed": 1 << 64}):
            with pytest.raises(mb.errors.ArgumentError):
                next(model.stream("a", sampling=mb.Sampling(**sampling)))
        with pytest.raises(mb.errors.ArgumentError, match="max_new_tokens"):
            next(model.stream("a", max_new_tokens=0))
        with pytest.raises(mb.errors.ArgumentError, match="no chat template"):
            model.chat(MESSAGES[:2])
        for messages in (
            [{"role": "king", "content": "a"}],
            [{"role": "user"}],
            [{"role": "user", "content": "a", "x": "b"}],
        ):
            with pytest.raises(mb.errors.ArgumentError, match="message"):
                model.chat(messages)


def test_a_cancelled_answer_is_not_taken_for_a_whole_one(chatty):
    with mb.open(chatty).load() as model, pytest.raises(mb.errors.Cancelled):
        model.chat(MESSAGES[:2], cancel=lambda: True)
