"""The state of its system prompt, which a bundle may carry: no phone reads that text then.

What it holds is what every conversation with that system message begins with, told by rendering several and comparing
their tokens. The runner compares tokens too before it uses the state, so it can save time and change nothing."""

from __future__ import annotations

import datetime
import os
import shutil
from itertools import takewhile
from pathlib import Path

from mobile_bundle.errors import ArgumentError
from mobile_bundle.models import DecoderSpec
from mobile_bundle.native.chat import render_chat
from mobile_bundle.native.engine import Model, estimate_memory
from mobile_bundle.native.tokenizer import Tokenizer

NAME = "system.state"
_HEADER_BYTES, _TOKEN_BYTES = 64, 4
_QUESTIONS = ("a", "What is 2?\n", "“Ä” 漢字", " 7", "")
_DAYS = (datetime.datetime(2024, 2, 29, 12), datetime.datetime(2031, 11, 3, 8))


def system_tokens(directory: Path, spec: DecoderSpec, prompt: str) -> list[int]:
    """The tokens that every conversation with the system message `prompt` begins with, by tokenizer.bin of the
    unfinished bundle `directory`. ArgumentError where there are none, or more than the context holds."""
    tokenizer = Tokenizer(directory / "tokenizer.bin")
    try:
        if not tokenizer.has_chat:
            raise ArgumentError("`system_prompt`: the model has no chat template that could write it")

        def ids(question: str, day: datetime.datetime) -> list[int]:
            text = render_chat(tokenizer, [("system", prompt), ("user", question)], None, day)
            return [int(i) for i in tokenizer.encode(text, special=False)]

        begins = [_common([ids(question, day) for question in _QUESTIONS]) for day in _DAYS]
    finally:
        tokenizer.close()
    if begins[0] != begins[1]:
        raise ArgumentError("`system_prompt`: the chat template writes the date into it, so its state is of one day")
    if not begins[0]:
        raise ArgumentError("`system_prompt`: the chat template begins no conversation with it")
    if len(begins[0]) >= spec.default_context:
        raise ArgumentError(
            f"`system_prompt`: it takes {len(begins[0])} tokens, the context has room for {spec.default_context}"
        )
    return begins[0]


def _common(texts: list[list[int]]) -> list[int]:
    """What all of them begin with."""
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False))]


def state_bound(spec: DecoderSpec, tokens: int) -> int:
    """At least the bytes of a state of so many tokens, and at most 1 KiB more."""
    return _HEADER_BYTES + tokens * _TOKEN_BYTES + estimate_memory(spec.to_config_bytes(), tokens).kv_bytes


def write_system_state(directory: Path, tokens: list[int]) -> None:
    """Feeds the tokens to the unfinished bundle `directory` and writes system.state into it."""
    cache = directory / ".system"
    cache.mkdir()
    try:
        with Model(directory / "weights.ptd", cache=cache, mapping="layers") as model, model.session() as session:
            session.feed(tokens)
            session.save(tokens, directory / NAME)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    os.chmod(directory / NAME, 0o644)  # it holds nobody's conversation
