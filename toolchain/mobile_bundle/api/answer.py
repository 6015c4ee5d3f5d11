"""The token loop of runtime/runner/answer.c, in Python: the engine computes, samples and turns tokens into text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.api.stop import Cancel, is_cancelled
from mobile_bundle.api.stop_strings import StopWatch
from mobile_bundle.errors import ArgumentError
from mobile_bundle.native.constraint import Constraint
from mobile_bundle.native.engine import Session
from mobile_bundle.native.sampler import Sampler
from mobile_bundle.native.tokenizer import TextStream

Ended = Literal["eos", "stop", "length", "context", "cancelled"]
"""Why an answer ended: an end token or the end of its form, a stop string, max_new_tokens, a full context, or somebody
who stopped it."""

_STEP = 256
"""Tokens that are computed before it is looked again whether somebody wants it to stop; steps of any size give the same
bits."""


@dataclass(frozen=True)
class Piece:
    """A piece of an answer. text: whole characters, "" while one is unfinished; token: its id. The last piece has no
    token: its text was kept back from earlier ones, and `ended` says why the answer is over."""

    text: str
    token: int | None
    ended: Ended | None = None


class Memory:
    """A session and the tokens that it holds: what two texts have in common at their start is computed once."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._held: list[int] = []

    def begin(self, ids: Sequence[int]) -> list[int]:
        """Forgets what is not at the start of the ids. Those that are to be fed; the last one always is."""
        context = self.session.context
        if len(ids) > context:
            raise ArgumentError(f"{len(ids)} tokens do not fit a context of {context}: shorten the text or raise it")
        common = 0
        while common < len(self._held) and common + 1 < len(ids) and self._held[common] == ids[common]:
            common += 1
        common = self.session.rewind_point(common)
        self.session.rewind(common)
        del self._held[common:]
        return list(ids[common:])

    def feed(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits float32 (vocabulary,) after the last of the ids, valid until the next call."""
        try:
            return self.session.feed(ids)
        finally:
            self._held = [*self._held, *ids][: self.session.position]


class Answer:
    """One answer, a piece at a time.

    memory: has begun with the prompt, of which `unread` is to be fed; limit: most tokens; ends: token ids that end
    it; stops: texts that end it before them; constraint: the form that it has, at its begin."""

    def __init__(
        self,
        memory: Memory,
        unread: Sequence[int],
        sampler: Sampler,
        text: TextStream,
        limit: int,
        ends: Collection[int],
        stops: StopWatch,
        cancel: Cancel,
        constraint: Constraint | None,
    ) -> None:
        self._stops, self._constraint = stops, constraint
        self._memory, self._unread, self._sampler, self._text = memory, list(unread), sampler, text
        self._left, self._ends, self._cancel = limit, ends, cancel
        self._begun = False

    def next(self) -> Piece:
        """The next piece; none comes after one that has `ended`. NotFinite where the model's values are not finite."""
        ended = self._obstacle()
        logits = None
        while self._unread and not ended:
            step, self._unread = self._unread[:_STEP], self._unread[_STEP:]
            logits = self._memory.feed(step)
            ended = "cancelled" if is_cancelled(self._cancel) else None
        if ended or logits is None:
            return self._last(ended)
        token = self._sampler.sample(logits, self._constraint.allowed() if self._constraint else None)
        if token in self._ends:
            return self._last("eos")
        self._sampler.accept([token])
        if self._constraint:
            self._constraint.accept(token)
        self._unread, self._left, self._begun = [token], self._left - 1, True
        return Piece(self._stops.piece(self._text.token(token)), token)

    def _obstacle(self) -> Ended | None:
        """Why no token can follow."""
        session = self._memory.session
        if self._stops.stopped:
            return "stop"
        if self._constraint and self._constraint.complete:
            return "eos"
        if self._left == 0:
            return "length"
        if self._begun and session.position == session.context:
            return "context"
        return "cancelled" if is_cancelled(self._cancel) else None

    def _last(self, ended: Ended | None) -> Piece:
        rest = "" if self._stops.stopped else self._stops.piece(self._text.finish()) + self._stops.rest()
        return Piece(rest, None, ended)
