"""A model that runs in this process."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.api.answer import Answer, Memory, Piece
from mobile_bundle.api.stop import Cancel, is_cancelled
from mobile_bundle.api.stop_strings import StopWatch, check_stops
from mobile_bundle.corpus.windows import token_windows
from mobile_bundle.errors import ArgumentError, Cancelled
from mobile_bundle.evaluate.perplexity import CHUNK, Perplexity, measure
from mobile_bundle.native.chat import ROLES, render_chat
from mobile_bundle.native.constraint import JSON_SCHEMA, REGEX, Constraint, Vocabulary
from mobile_bundle.native.engine import KV_TYPES, MAPPINGS, Model
from mobile_bundle.native.sampler import Sampler, Sampling
from mobile_bundle.native.tokenizer import TextStream, Tokenizer
from mobile_bundle.pipeline.request import Step

_GREEDY = Sampling()
_WINDOW = 512
_MOST = (1 << 32) - 1
Messages = Sequence[Mapping[str, str]]
Schema = Mapping[str, object] | str
"""A JSON schema: as an object, or as JSON text."""
_Form = tuple[int, str]
"""Kind and text of a Constraint."""


class LoadedModel:
    """A bundle's model, opened by Bundle.load: a context manager.

    One thread at a time may use it: a call while another one is under way raises ArgumentError. Several models of one
    bundle are independent, and share the pages of its files. What a text has in common with the start of the one before
    is not computed again. Starting a text ends the pieces of the one before."""

    def __init__(self, path: Path, *, context: int, threads: int, kv: str, mapping: str, cache: Path | None) -> None:
        """Bundle.load says what these are."""
        _check_choice("kv", kv, KV_TYPES)
        _check_choice("mapping", mapping, MAPPINGS)
        _check_count("context", context, least=0)
        _check_count("threads", threads, least=0)
        self._threads, self._kv = threads, kv
        self._busy = threading.Lock()
        self._texts = 0  # begun so far
        self._vocabulary: Vocabulary | None = None
        with ExitStack() as stack:
            self._tokenizer = Tokenizer(path / "tokenizer.bin")
            stack.callback(self._tokenizer.close)
            self._model = stack.enter_context(Model(path, cache=cache, mapping=mapping))
            self._memory = Memory(stack.enter_context(self._model.session(context, threads, 0, kv)))
            self._open: ExitStack | None = stack.pop_all()
        self.context = self._memory.session.context
        """Tokens that it can hold."""
        self.has_chat, self.has_thinking = self._tokenizer.has_chat, self._tokenizer.has_thinking
        """Whether it has a chat template, and whether that can switch thinking."""

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees memory and files. Every later call raises ArgumentError."""
        if self._open is not None:
            with self._taken():
                stack, self._open = self._open, None
                stack.close()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with what the tokenizer puts before it (BOS)."""
        with self._taken():
            return _listed(self._tokenizer.encode(text, special=True))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        with self._taken():
            return self._tokenizer.decode(self._tokens(ids), skip_special=True)

    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 128,
        sampling: Sampling = _GREEDY,
        ignore_eos: bool = False,
        stop: Sequence[str] = (),
        json_schema: Schema | None = None,
        regex: str | None = None,
        cancel: Cancel = None,
    ) -> Iterator[Piece]:
        """Continues a text, piece by piece, with the tokens of `mobile-run generate` and the same options.

        ignore_eos: an end token does not end the text. stop: at most 8 texts; the answer ends before the first that
        would be in it. json_schema, regex: the form that the answer has (docs/SERVE.md says which there are), unless
        it ends with "length", "context", "stop" or "cancelled"; one of them at most, and not with ignore_eos. cancel:
        see stop.Cancel; the last piece says so.

        Errors are raised when the first piece is requested: ArgumentError for a prompt that does not fit the context,
        for a form that is not supported or for invalid values of `sampling`, NotFinite if the model's values are not
        finite."""
        _check_text("prompt", prompt)
        form = _form(json_schema, regex)
        if form and ignore_eos:
            raise ArgumentError(
                "`ignore_eos` cannot go with `json_schema` or `regex`: the form says where the answer ends"
            )
        return self._answer(lambda: self._prompt(prompt), max_new_tokens, sampling, ignore_eos, stop, form, cancel)

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        stream: Literal[False] = False,
        thinking: bool | None = None,
        max_new_tokens: int = 128,
        sampling: Sampling = _GREEDY,
        stop: Sequence[str] = (),
        json_schema: Schema | None = None,
        regex: str | None = None,
        cancel: Cancel = None,
    ) -> str: ...

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        stream: Literal[True],
        thinking: bool | None = None,
        max_new_tokens: int = 128,
        sampling: Sampling = _GREEDY,
        stop: Sequence[str] = (),
        json_schema: Schema | None = None,
        regex: str | None = None,
        cancel: Cancel = None,
    ) -> Iterator[Piece]: ...

    def chat(
        self,
        messages: Messages,
        *,
        stream: bool = False,
        thinking: bool | None = None,
        max_new_tokens: int = 128,
        sampling: Sampling = _GREEDY,
        stop: Sequence[str] = (),
        json_schema: Schema | None = None,
        regex: str | None = None,
        cancel: Cancel = None,
    ) -> str | Iterator[Piece]:
        """Answers a conversation by the model's own chat template: the text, or with stream=True its pieces.

        messages: {"role": "system", "user" or "assistant", "content": text} each; one that ends with the assistant's
        message has that message continued. thinking: whether the model is to think, where its template can switch it
        (None: as the template has it); not True with a form. The others: as `stream`'s, but without stream=True
        cancelling raises Cancelled.

        ArgumentError for a bundle without a chat template, and for a conversation that the template refuses or that
        does not fit the context; nothing is left out of it (`mobile-run serve` does that)."""
        if isinstance(messages, str) or not all(isinstance(message, Mapping) for message in messages):
            raise ArgumentError('`messages` must be a list of {"role": ..., "content": ...}')
        conversation = [_message(message) for message in messages]
        form = _form(json_schema, regex)
        if form and thinking:
            raise ArgumentError("`thinking` cannot go with `json_schema` or `regex`: the form has no room for it")
        pieces = self._answer(
            lambda: self._chat_prompt(conversation, thinking), max_new_tokens, sampling, False, stop, form, cancel
        )
        return pieces if stream else _whole(pieces)

    def logits(self, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """Logits float32 (tokens, vocabulary): row n is what the model expects after ids[: n + 1].

        Computed in a session of its own, which takes memory for so many tokens. ArgumentError for no ids, for ids that
        are no tokens, and for more of them than the model was trained for."""
        with self._taken():
            tokens = self._tokens(ids)
            if not len(tokens):
                raise ArgumentError("ids must be a list of token ids, at least one")
            with self._model.session(len(tokens), self._threads, CHUNK, self._kv, all_logits=True) as session:
                return np.concatenate(
                    [session.feed_all(tokens[start : start + CHUNK]).copy() for start in range(0, len(tokens), CHUNK)]
                )

    def perplexity(
        self,
        text: str,
        *,
        context: int = 0,
        windows: int = 0,
        progress: Callable[[Step], None] = lambda step: None,
        cancel: Cancel = None,
    ) -> Perplexity:
        """Perplexity on a text, in windows of `context` tokens (0: 512, or what the model was trained for if that is
        less); windows: how many of them at most (0: all). A line of U+001E alone separates documents.

        progress: takes a Step for each window. InputError for a text shorter than one window, ArgumentError for a
        context that the model was not trained for; NotFinite; Cancelled."""
        _check_text("text", text)
        _check_count("context", context, least=0)
        _check_count("windows", windows, least=0)

        def step(done: int, total: int) -> None:
            progress(Step("perplexity", done, total))
            if is_cancelled(cancel):
                raise Cancelled()

        with self._taken():
            length = context or min(_WINDOW, self._model.context)
            cut = token_windows(self._tokenizer, self._model.bos, text, length, windows)
            return measure(self._model, cut, self._kv, self._threads, step)

    def _tokens(self, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int32]:
        array = np.asarray(ids) if len(np.shape(ids)) != 1 or np.size(ids) else np.zeros(0, np.int32)
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise ArgumentError("ids must be a list of token ids")
        if len(array) and not 0 <= array.min() <= array.max() < self._model.vocabulary:
            raise ArgumentError(f"ids must be from 0 to {self._model.vocabulary - 1}")
        return array.astype(np.int32)

    def _prompt(self, text: str) -> list[int]:
        ids = _listed(self._tokenizer.encode(text, special=True))
        if not ids and self._model.bos is None:
            raise ArgumentError("the prompt is empty, and this model has no BOS token to start with")
        return ids or [self._model.bos or 0]

    def _chat_prompt(self, messages: Sequence[tuple[str, str]], thinking: bool | None) -> list[int]:
        text = render_chat(self._tokenizer, messages, thinking, datetime.datetime.now())
        return _listed(self._tokenizer.encode(text))

    def _answer(
        self,
        prompt: Callable[[], list[int]],
        limit: int,
        sampling: Sampling,
        ignore_eos: bool,
        stop: Sequence[str],
        form: _Form | None,
        cancel: Cancel,
    ) -> Iterator[Piece]:
        """The model is only taken while a piece is made, so that the caller may ask for other things between two."""
        _check_count("max_new_tokens", limit, least=1)
        if not isinstance(sampling, Sampling):
            raise ArgumentError(f"`sampling` {sampling!r}: must be a Sampling")
        stops = StopWatch(check_stops(stop))
        with self._taken():
            self._texts += 1
            text = self._texts
            ids = prompt()
            unread = self._memory.begin(ids)
        with Sampler(self._model.vocabulary, sampling) as sampler, ExitStack() as stack:
            sampler.accept(ids)
            constraint = None
            if form:
                with self._taken(text):
                    constraint = stack.enter_context(Constraint(self._tries(), *form))
            ends = frozenset() if ignore_eos else self._model.end_tokens
            pieces = TextStream(self._tokenizer)
            answer = Answer(self._memory, unread, sampler, pieces, limit, ends, stops, cancel, constraint)
            while True:
                with self._taken(text):
                    piece = answer.next()
                yield piece
                if piece.ended:
                    return

    def _tries(self) -> Vocabulary:
        """Made at the first answer in a given form."""
        if self._vocabulary is None and self._open is not None:
            model = self._model
            self._vocabulary = Vocabulary(self._tokenizer, model.vocabulary, model.end_tokens)
            self._open.callback(self._vocabulary.close)
        assert self._vocabulary is not None
        return self._vocabulary

    @contextmanager
    def _taken(self, text: int | None = None) -> Iterator[None]:
        """For one thread, and for the pieces of a text as long as no other text was begun."""
        if not self._busy.acquire(blocking=False):
            raise ArgumentError("the model is in use by another call; load it once for each thread")
        try:
            if self._open is None:
                raise ArgumentError("the model is closed")
            if text is not None and text != self._texts:
                raise ArgumentError("the model has started another text: this one cannot continue")
            yield
        finally:
            self._busy.release()


def _form(json_schema: Schema | None, regex: str | None) -> _Form | None:
    if json_schema is not None and regex is not None:
        raise ArgumentError("give `json_schema` or `regex`, not both")
    if regex is not None:
        _check_text("regex", regex)
        return REGEX, regex
    if json_schema is None or isinstance(json_schema, str):
        return None if json_schema is None else (JSON_SCHEMA, json_schema)
    try:
        return JSON_SCHEMA, json.dumps(json_schema)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"`json_schema` is not JSON: {error}") from error


def _whole(pieces: Iterator[Piece]) -> str:
    texts = []
    for piece in pieces:
        texts.append(piece.text)
        if piece.ended == "cancelled":
            raise Cancelled()
    return "".join(texts)


def _message(message: Mapping[str, str]) -> tuple[str, str]:
    """(role, content). What else a template could use (reasoning_content, tool_calls) would be left out: refused."""
    for key in message:
        if key not in ("role", "content"):
            raise ArgumentError(f"a message has the member {key!r}; only role and content are supported")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES or not isinstance(content, str):
        raise ArgumentError(f"a message needs a content, and a role: {', '.join(ROLES)}")
    return role, content


def _listed(ids: NDArray[np.int32]) -> list[int]:
    listed: list[int] = ids.tolist()
    return listed


def _check_text(name: str, value: str) -> None:
    if not isinstance(value, str):
        raise ArgumentError(f"`{name}` {value!r}: must be a text")


def _check_choice(name: str, value: str, choices: Mapping[str, int]) -> None:
    if value not in choices:
        raise ArgumentError(f"`{name}` {value!r}: must be one of {', '.join(choices)}")


def _check_count(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or not least <= value <= _MOST:
        raise ArgumentError(f"`{name}` {value!r}: must be a whole number of at least {least}")
