"""What a run reads: the user's text, the model's own, and what is held out of both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mobile_bundle.corpus.openings import open_turn
from mobile_bundle.corpus.text import DEFAULT_TEXT
from mobile_bundle.errors import ArgumentError
from mobile_bundle.files.disk import write_file
from mobile_bundle.files.work_folder import scratch_folder
from mobile_bundle.healing.decoders import Original
from mobile_bundle.healing.mixture import Part, Tokens
from mobile_bundle.healing.own_text import Openings, distinct, own_text
from mobile_bundle.healing.settings import Settings
from mobile_bundle.healing.state import digest
from mobile_bundle.healing.text import openings_of_text, text_sequences
from mobile_bundle.healing.world import World
from mobile_bundle.native.tokenizer import Tokenizer
from mobile_bundle.pipeline.request import Listener
from mobile_bundle.pipeline.source import Source

_HELD_OUT = 16
"""Sequences of each source that are kept for evaluation, or a tenth of a small source."""
_AT_ONCE = {"cpu": 64, "cuda": 1536}
"""Sequences that the model writes side by side."""
_PROMPT_TOKENS = 32
"""Of each of the user's openings."""


class Sources:
    """work: the run's folder, which keeps own text unless the settings name another."""

    def __init__(self, source: Source, settings: Settings, world: World, listener: Listener, work: Path) -> None:
        self._source, self._settings, self._world = source, settings, world
        self._listener, self._work = listener, work

    def read(self, original: Original, model_digest: str) -> tuple[list[Part], Tokens]:
        """What is trained on, and the held-out sequences. original: writes; model_digest: of its tensors, by which own
        text is found again.

        InputError or ArgumentError for a text that cannot be used."""
        settings = self._settings
        text, share = self._given()
        found: list[tuple[Tokens, float]] = []
        with self._tokenizer() as tokenizer:
            if text is not None and share > 0:
                compiled = self._source.tokenizer
                sequences = text_sequences(text, tokenizer, compiled.bos, compiled.chat_end, settings.sequence)
                found.append((sequences, share))
            if share < 1:
                found.append((self._own(original, tokenizer, model_digest), 1 - share))
        parts, held_out = [], []
        for sequences, weight in found:
            held = min(_HELD_OUT, len(sequences) // 10)
            if held == 0:
                raise ArgumentError(
                    f"a source of the text has {len(sequences)} sequences of {settings.sequence} tokens, which leaves "
                    "none to hold out",
                    "give a longer text, more `own_tokens` or a shorter `sequence`",
                )
            parts.append(Part(sequences[:-held], weight))
            held_out.append(sequences[-held:])
        return parts, np.concatenate(held_out)

    @property
    def description(self) -> str:
        """In words."""
        given, share = self._given()
        own = "text that the model wrote itself"
        if given is None:
            return own
        return given.name if share == 1 else f"{100 * share:.0f} % {given.name}, the rest {own}"

    def _given(self) -> tuple[Path | None, float]:
        """The text that is not the model's own, and its share."""
        settings = self._settings
        if settings.method == "blocks":  # own text takes long on a CPU: where it is asked for
            return settings.text or DEFAULT_TEXT, settings.text_share if settings.own_tokens else 1.0
        return settings.text, settings.text_share if settings.text else 0.0

    def _own(self, original: Original, tokenizer: Tokenizer, model_digest: str) -> Tokens:
        settings, world = self._settings, self._world
        bos = self._source.tokenizer.bos
        documents = [_document_start(tokenizer, bos, self._source.spec.eos)]
        if settings.prompts is not None:
            documents = openings_of_text(settings.prompts, tokenizer, bos, _PROMPT_TOKENS)
        openings = Openings(open_turn(tokenizer), documents)
        at_once = min(_AT_ONCE[settings.device], -(-settings.own_tokens // settings.sequence))
        key = [model_digest, settings.sequence, at_once, settings.seed, settings.device]
        key += [digest([opening.tolist() for opening in documents])]
        folder = (settings.own_text or self._work) / f"own-{digest(key)[:12]}"
        step = self._listener.stage("writing own text")
        files = own_text(
            original,
            openings,
            folder,
            tokens=settings.own_tokens,
            length=settings.sequence,
            at_once=at_once,
            seed=settings.seed,
            share=(world.rank, world.size),
            progress=lambda done, total: step(done, total, ""),
            tell=self._listener.tell,
        )
        world.wait()
        return distinct(np.concatenate([np.load(path) for path in files]))

    @contextmanager
    def _tokenizer(self) -> Iterator[Tokenizer]:
        with scratch_folder() as directory:
            path = directory / "tokenizer.bin"
            write_file(path, bytes(self._source.tokenizer.data))
            opened = Tokenizer(path)
            try:
                yield opened
            finally:
                opened.close()


def _document_start(tokenizer: Tokenizer, bos: int | None, ends: tuple[int, ...]) -> Tokens:
    """The token that documents begin with in the model's own training: <|endoftext|> where there is one, else BOS, else
    an end token."""
    text_end = tokenizer.encode("<|endoftext|>")
    if len(text_end) == 1:
        return text_end.copy()
    return np.array([bos if bos is not None else ends[0] if ends else 0], np.int32)
