"""mobile-run serve: one request after another, what is kept between them, cancelling, and what makes no sense."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mobile_bundle.native.programs import bundle_runner
from mobile_bundle.native.tokenizer import Tokenizer
from support.chat_templates import CHAT_TEMPLATE, TEMPLATES
from support.paths import EXAMPLE
from support.serve import BAD_REQUESTS, prompt_of, serving

PROMPT = "The history of the city"
NO_THINKING = "<think>\n\n</think>\n\n"


def text(events: list[dict[str, Any]]) -> str:
    return "".join(event["text"] for event in events if event["event"] == "token")


@pytest.fixture(scope="module")
def chatty(bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a chat template."""
    model = tmp_path_factory.mktemp("models") / "serve-chat"
    shutil.copytree(EXAMPLE, model)
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": CHAT_TEMPLATE}))
    return bundle("affine-4bit", model)


def test_answers_what_generate_answers(bundle):
    directory = bundle("affine-4bit")
    options = ("--prompt", PROMPT, "--max-new-tokens", "16", "--ignore-eos", "--json")
    process = subprocess.run(
        [str(bundle_runner(directory)), "generate", str(directory), *options],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    alone = [json.loads(line) for line in process.stdout.splitlines()]
    with serving(directory) as server:
        events = server.ask(prompt=PROMPT, max_new_tokens=16, ignore_eos=True)
        assert server.load["event"] == "load"
        assert [event["event"] for event in events] == ["prompt", *["token"] * 16, "done"]
        assert [event for event in events if event["event"] == "token"] == [e for e in alone if e["event"] == "token"]
        assert events[-1]["reason"] == "length"
        assert events[-1]["memory"]["peak_rss_bytes"] > 0
        assert server.end() == 0


def test_what_two_requests_share_is_computed_once(bundle):
    with serving(bundle("affine-4bit")) as server:
        first = server.ask(prompt=PROMPT, max_new_tokens=12)
        assert prompt_of(first)["kept_tokens"] == 0
        longer = server.ask(prompt=PROMPT + text(first), max_new_tokens=12)
        assert prompt_of(longer)["kept_tokens"] >= prompt_of(first)["tokens"]
        assert prompt_of(longer)["tokens"] >= prompt_of(first)["tokens"] + 11
        # the same again: all of the prompt but its last token, whose logits are wanted
        again = server.ask(prompt=PROMPT, max_new_tokens=12)
        assert prompt_of(again)["kept_tokens"] == prompt_of(first)["tokens"] - 1
        assert text(again) == text(first)
        other = server.ask(prompt="Water is", max_new_tokens=12)
    with serving(bundle("affine-4bit")) as fresh:
        assert text(fresh.ask(prompt="Water is", max_new_tokens=12)) == text(other)
        assert text(fresh.ask(prompt=PROMPT + text(first), max_new_tokens=12)) == text(longer)


def test_a_long_prompt_tells_how_far_it_is_read(bundle):
    prompt = "The city lies on a river, and the river is wide. " * 16
    with serving(bundle("affine-4bit")) as server:
        first = server.ask(prompt=prompt, max_new_tokens=8)
        read = [event for event in first if event["event"] == "reading"]
        total = prompt_of(first)["tokens"]
        assert [event["done_tokens"] for event in read] == list(range(64, total, 64))
        assert len(read) > 2
        assert {event["total_tokens"] for event in read} == {total}
        # What is held already is not read again, and the answer is that of a prompt read in one piece.
        again = server.ask(prompt=prompt, max_new_tokens=8)
        assert again[0]["event"] == "prompt"
        assert text(again) == text(first)


def test_a_conversation(chatty):
    rendered = "<|endoftext|>system: Be brief.\n<|endoftext|>user: What is water?\n<|endoftext|>assistant:"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is water?"}]
    with serving(chatty) as server:
        answer = server.ask(messages=messages, max_new_tokens=8)
        assert text(answer) == text(server.ask(prompt=rendered, max_new_tokens=8))
        # an unfinished answer is continued
        begun = text(answer).strip()  # the template has a space of its own before it
        half = [*messages, {"role": "assistant", "content": begun}]
        continued = server.ask(messages=half, max_new_tokens=8)
        assert text(continued) == text(server.ask(prompt=f"{rendered} {begun}", max_new_tokens=8))
        both = [*half, {"role": "user", "content": "And ice?"}]
        assert prompt_of(server.ask(messages=both, max_new_tokens=8))["dropped_messages"] == 0


@pytest.fixture(scope="module")
def thinker(bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose chat template can switch thinking, and leaves the reasoning of earlier answers out."""
    model = tmp_path_factory.mktemp("models") / "serve-thinking"
    shutil.copytree(EXAMPLE, model)
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATES["qwen3"]}))
    return bundle("affine-4bit", model)


def test_thinking_is_switched_by_the_request(thinker):
    head = "<|im_start|>user\nWhat is water?<|im_end|>\n<|im_start|>assistant\n"
    messages = [{"role": "user", "content": "What is water?"}]
    with serving(thinker) as server:
        plain, off = server.ask(prompt=head, max_new_tokens=6), server.ask(prompt=head + NO_THINKING, max_new_tokens=6)
        assert prompt_of(plain)["tokens"] != prompt_of(off)["tokens"]
        for thinking, expected in ((None, plain), (True, plain), (False, off)):
            more = {} if thinking is None else {"thinking": thinking}
            answer = server.ask(messages=messages, max_new_tokens=6, **more)
            assert (prompt_of(answer)["tokens"], text(answer)) == (prompt_of(expected)["tokens"], text(expected))
    with serving(thinker, "--thinking", "off") as server:
        assert prompt_of(server.ask(messages=messages, max_new_tokens=6))["tokens"] == prompt_of(off)["tokens"]
        assert (
            prompt_of(server.ask(messages=messages, thinking=True, max_new_tokens=6))["tokens"]
            == prompt_of(plain)["tokens"]
        )


def test_a_template_without_the_switch_says_so(chatty):
    with serving(chatty) as server:
        refused = server.ask(messages=[{"role": "user", "content": "a"}], thinking=False)
        assert refused[0]["kind"] == "argument"
        assert "cannot switch thinking" in refused[0]["message"]


def test_reasoning_of_earlier_answers_is_left_out(thinker):
    def tokens(answer: str) -> int:
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer}]
        return prompt_of(server.ask(messages=[*messages, {"role": "user", "content": "Bye"}], max_new_tokens=1))[
            "tokens"
        ]

    with serving(thinker) as server:
        assert tokens("Hello!") == tokens("<think>\nThe user greets me.\n</think>\n\nHello!")
        assert tokens("Hello!") < tokens("The user greets me.\n\nHello!")


def test_a_conversation_too_long_for_the_context_loses_its_oldest(chatty):
    exchange = [
        {"role": "user", "content": "Tell me about the history of the city."},
        {"role": "assistant", "content": "The city was founded by the river, and its walls were built later."},
    ]
    system, last = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "And its people?"}
    with serving(chatty, "--context", "128") as server:
        long = server.ask(messages=[system, *exchange * 8, last], max_new_tokens=16)
        dropped = prompt_of(long)["dropped_messages"]
        assert dropped > 0
        assert dropped % 2 == 0
        assert prompt_of(long)["tokens"] + 16 <= 128
        kept = [system, *(exchange * 8)[dropped:], last]
        short = server.ask(messages=kept, max_new_tokens=16)
        assert prompt_of(short)["dropped_messages"] == 0
        assert text(short) == text(long)
        # a single message that is too long has nothing that could be left out
        refused = server.ask(messages=[{"role": "user", "content": "the " * 400}])
        assert refused[-1]["kind"] == "argument"


def rendered(messages: list[dict[str, str]]) -> str:
    """CHAT_TEMPLATE by hand."""
    lines = "".join(f"<|endoftext|>{message['role']}: {message['content']}\n" for message in messages)
    return lines + "<|endoftext|>assistant:"


def random_conversation(chance: random.Random) -> list[dict[str, str]]:
    """With or without a system message; exchanges of very different lengths."""
    messages = []
    if chance.random() < 0.5:
        messages.append({"role": "system", "content": "Be brief. " * chance.randrange(4)})
    for _ in range(chance.randrange(1, 40)):
        words = chance.choice([0, 1, 3, 10, 30, 150])
        messages.append({"role": "user", "content": "the city " * chance.randrange(words + 1)})
        messages.append({"role": "assistant", "content": "river, " * chance.randrange(words + 1)})
    return [*messages, {"role": "user", "content": "And its people?"}]


def test_no_exchange_is_left_out_that_would_fit(chatty):
    chance, context, room = random.Random(1), 256, 3
    tokenizer = Tokenizer(chatty / "tokenizer.bin")
    dropped = set()
    with serving(chatty, "--context", str(context)) as server:
        for _ in range(60):
            messages = random_conversation(chance)
            system = messages[:1] if messages[0]["role"] == "system" else []
            asked = [i for i, message in enumerate(messages) if message["role"] == "user"]
            shorter = [messages, *(system + messages[i:] for i in asked if i > len(system))]
            counts = [len(tokenizer.encode(rendered(some))) for some in shorter]
            expected = next((i for i, count in enumerate(counts) if count + room <= context), len(counts) - 1)
            prompt = prompt_of(server.ask(messages=messages, max_new_tokens=room))
            assert prompt["tokens"] == counts[expected]
            assert prompt["dropped_messages"] == len(messages) - len(shorter[expected])
            dropped.add(expected)
    tokenizer.close()
    assert 0 in dropped
    assert len(dropped) > 10


def long_conversation() -> list[dict[str, str]]:
    """2.7 MB of JSON: where every exchange that is left out costs another look at the rest, it takes hours."""
    return [{"role": ("user", "assistant")[i % 2], "content": "word word "} for i in range(59_999)]


def test_a_very_long_conversation_is_fitted_like_any_other(chatty):
    with serving(chatty, "--context", "128") as server:
        prompt = prompt_of(server.ask(messages=long_conversation(), max_new_tokens=4))
        assert prompt["tokens"] + 4 <= 128
        kept = prompt_of(server.ask(messages=long_conversation()[prompt["dropped_messages"] :], max_new_tokens=4))
        assert (kept["tokens"], kept["dropped_messages"]) == (prompt["tokens"], 0)
        more = prompt_of(server.ask(messages=long_conversation()[prompt["dropped_messages"] - 2 :], max_new_tokens=4))
        assert more["dropped_messages"] == 2


@pytest.mark.parametrize("content", ["the history of " * 270_000, "a" * 4_100_000], ids=["words", "one word"])
def test_cancel_is_heard_while_a_text_is_tokenised(chatty, content):
    with serving(chatty) as server:
        for request in ({"prompt": content}, {"messages": [{"role": "user", "content": content}]}):
            server.write(json.dumps(request))
            server.write("cancel")
            events = server.rest()
            # on a fast machine it may be over before the cancel is read, and is then refused as too long
            assert [event["event"] for event in events] in (["done"], ["error"])
            if events[-1]["event"] == "done":
                assert events[-1]["reason"] == "cancelled"
                assert events[-1]["tokens"] == 0
            assert server.ask(prompt=PROMPT, max_new_tokens=2, ignore_eos=True)[-1]["tokens"] == 2
        server.write(json.dumps({"prompt": content}))
        assert server.end() == 0


def test_the_end_of_its_input_is_noticed_behind_requests_that_wait(bundle):
    """Two requests are read, the rest of the input is not: the app that wrote them is gone all the same."""
    with serving(bundle("raw"), "--kernels", "scalar", "--threads", "1") as server:
        for _ in range(8):
            server.write(json.dumps({"prompt": PROMPT, "max_new_tokens": 480, "ignore_eos": True}))
        assert server.event()["event"] == "prompt"
        assert server.end() == 0
        assert server.rest()[-1]["reason"] == "cancelled"
        assert server.process.stdout is not None
        assert server.process.stdout.read() == b""


@pytest.mark.parametrize(
    "line",
    [
        ('{"%s":1}' % ("é" * 40)).encode(),
        b'{"prompt":"a","\xff\xfe":1}',
        b'{"prompt":"a","' + b"\xf0\x9f\x8e" * 400 + b'":1}',
        ('{"%s":1}' % ("漢" * 100_000)).encode(),
        b'{"prompt":"a","\xed\xa0\x80\x7f\xc2\x85\xe2\x80\xa8":1}',
        b'{"prompt":"a","\\u0000\\"":1}',
    ],
)
def test_an_error_is_a_short_line_of_json_whatever_came(bundle, line):
    with serving(bundle("affine-4bit")) as server:
        server.write(line)
        assert server.process.stdout is not None
        answer = server.process.stdout.readline().decode("utf-8")
        event = json.loads(answer)
        assert event["event"] == "error"
        assert event["kind"] == "argument"
        assert "does not know" in event["message"]
        assert len(event["message"]) <= 300
        assert event["message"].isprintable()


def test_characters_of_every_kind_arrive(chatty):
    with serving(chatty) as server:
        for prompt in ('naïve “漢字” 🎉\n\t"quoted" \\ back/slash', "\x7f\x01 control"):
            plain = server.ask(prompt=prompt, max_new_tokens=4)
            server.write(json.dumps({"prompt": prompt, "max_new_tokens": 4}, ensure_ascii=False))
            assert text(server.rest()) == text(plain)
        server.write(r'{"prompt":"\ud83d \udf89 \u0000","max_new_tokens":4}')  # unpaired surrogates, a zero
        assert server.rest()[-1]["event"] == "done"


def test_cancel_stops_an_answer_and_only_that(bundle):
    with serving(bundle("raw"), "--kernels", "scalar", "--threads", "1") as server:
        server.write("cancel")  # there is nothing to stop yet
        server.write(json.dumps({"prompt": PROMPT, "max_new_tokens": 480, "ignore_eos": True}))
        assert server.event()["event"] == "prompt"
        assert server.event()["event"] == "token"
        server.write("cancel")
        done = server.rest()[-1]
        assert done["reason"] == "cancelled"
        assert done["tokens"] < 480
        # in the middle of a prompt
        server.write(json.dumps({"prompt": "the " * 400, "max_new_tokens": 4}))
        server.write("cancel")
        assert server.rest()[-1]["reason"] == "cancelled"
        # and nothing of it is left for the next
        after = server.ask(prompt=PROMPT, max_new_tokens=6, ignore_eos=True)
        assert after[-1]["reason"] == "length"
    with serving(bundle("raw"), "--kernels", "scalar", "--threads", "1") as fresh:
        assert text(fresh.ask(prompt=PROMPT, max_new_tokens=6, ignore_eos=True)) == text(after)


def test_the_end_of_its_input_ends_it_even_in_an_answer(bundle):
    with serving(bundle("raw"), "--kernels", "scalar", "--threads", "1") as server:
        server.write(json.dumps({"prompt": PROMPT, "max_new_tokens": 480, "ignore_eos": True}))
        assert server.event()["event"] == "prompt"
        assert server.end() == 0
        assert server.rest()[-1]["reason"] == "cancelled"


def test_requests_that_come_at_once_are_answered_in_turn(bundle):
    with serving(bundle("affine-4bit")) as server:
        for count in (3, 5, 7):
            server.write(json.dumps({"prompt": PROMPT, "max_new_tokens": count, "ignore_eos": True}))
        assert [server.rest()[-1]["tokens"] for _ in range(3)] == [3, 5, 7]


@pytest.mark.parametrize(("line", "words"), BAD_REQUESTS)
def test_a_request_that_makes_no_sense_is_refused_and_ends_nothing(bundle, line, words):
    with serving(bundle("affine-4bit")) as server:
        server.write(line)
        refused = server.rest()
        assert len(refused) == 1
        assert refused[0]["event"] == "error"
        assert refused[0]["kind"] == "argument"
        assert words in refused[0]["message"]
        assert server.ask(prompt="a", max_new_tokens=2, ignore_eos=True)[-1]["tokens"] == 2


def test_a_line_without_end_is_refused(bundle):
    with serving(bundle("affine-4bit")) as server:
        server.write(b'{"prompt":"' + b"a" * (5 << 20) + b'"}')
        assert "4 MiB" in server.rest()[0]["message"]
        server.write(b"\xff\xfe\x00")
        assert server.rest()[0]["kind"] == "argument"
        assert server.ask(prompt="a", max_new_tokens=2, ignore_eos=True)[-1]["tokens"] == 2


def test_bad_usage(bundle):
    directory = bundle("affine-4bit")
    process = subprocess.run(
        [str(bundle_runner(directory)), "serve", str(directory), "--prompt", "a"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    assert process.returncode == 2
    assert len(process.stderr.strip().splitlines()) == 1
