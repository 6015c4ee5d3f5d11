"""The user's text as sequences of tokens: plain, or conversations as JSON lines, written by the model's chat template.

A line of conversations is {"messages": [{"role": "user", "content": "..."}, ...]}, or the list alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mobile_bundle.corpus.openings import TEMPLATE_DATE
from mobile_bundle.corpus.text import read_text
from mobile_bundle.corpus.windows import DOCUMENT_SEPARATOR, after_bos, token_windows
from mobile_bundle.errors import InputError, UserError
from mobile_bundle.healing.mixture import Tokens
from mobile_bundle.native.chat import ROLES, render_chat
from mobile_bundle.native.tokenizer import Tokenizer

CHAT_SUFFIXES = (".jsonl", ".ndjson")


def text_sequences(path: Path, tokenizer: Tokenizer, bos: int | None, end: int | None, length: int) -> Tokens:
    """Token ids int32 (count, length). end: the token that ends an answer in a chat.

    InputError for a text that cannot be read, is shorter than one sequence, or holds something else than
    conversations."""
    if path.suffix in CHAT_SUFFIXES:
        return _packed(path, list(_conversations(path, tokenizer, end)), length)
    return token_windows(tokenizer, bos, read_text(path), length, 0)


def openings_of_text(path: Path, tokenizer: Tokenizer, bos: int | None, most: int) -> list[Tokens]:
    """The first `most` tokens from the start of every paragraph of a text on, BOS before them: what own text may begin
    with. A heading is followed by its paragraph."""
    found = []
    for document in read_text(path).split(DOCUMENT_SEPARATOR):
        lines = document.splitlines()
        for number, line in enumerate(lines):
            if line.strip():
                ids = tokenizer.encode("\n".join(lines[number : number + most])[: 16 * most].lstrip())[:most]
                found.append(after_bos(ids, bos))
    return found


def _packed(path: Path, pieces: list[Tokens], length: int) -> Tokens:
    total = sum(len(piece) for piece in pieces)
    if total < length:
        raise InputError(f"{path} has {total} tokens, less than one sequence of {length}", "give a longer text")
    return np.concatenate(pieces)[: total // length * length].reshape(-1, length)


def _conversations(path: Path, tokenizer: Tokenizer, end: int | None) -> Iterator[Tokens]:
    if not tokenizer.has_chat:
        raise InputError(f"{path} holds conversations, and the model has no chat template", "give a plain text")
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            messages = _messages(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: {error}") from error
        try:
            text = render_chat(tokenizer, messages, None, TEMPLATE_DATE)
        except UserError as error:
            raise InputError(f"{path}, line {number}: {error.message}", error.remedy) from error
        ids = tokenizer.encode(text)
        answered = messages[-1][0] == "assistant" and end is not None
        yield np.concatenate([ids, np.array([end], np.int32)]) if answered else ids


def _messages(value: Any) -> list[tuple[str, str]]:
    """ValueError for what is no conversation."""
    listed = value.get("messages") if isinstance(value, dict) else value
    if not isinstance(listed, list) or not listed:
        raise ValueError('a conversation is {"messages": [{"role": ..., "content": ...}, ...]}')
    found = []
    for message in listed:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in ROLES or not isinstance(content, str):
            raise ValueError(f"a message needs a role ({', '.join(ROLES)}) and a content of text")
        found.append((role, content))
    return found
