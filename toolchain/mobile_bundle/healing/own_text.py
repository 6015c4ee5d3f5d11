"""Text that the model writes itself: what it has learned, without the data that it learned it from.

Sequences are sampled in batches with a cache of keys and values that has its full size from the start. They begin as a
conversation by the model's template up to the user's words, as a document, or as the user's own openings do, and run on
to their full length. Each batch is stored when it is done, so that a run that was killed goes on behind it, and the
next run with the same model and settings reuses them all."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobile_bundle.corpus.openings import TEMPERATURE
from mobile_bundle.files.disk import disk_errors, whole_file
from mobile_bundle.healing.decoders import Original
from mobile_bundle.healing.mixture import Tokens
from mobile_bundle.healing.writer import Tell, Writer

CHAT_SHARE = 0.5
"""Of the sequences that begin as a conversation, where the model has a chat template."""


@dataclass(frozen=True)
class Openings:
    """chat: ids up to the user's words, none without a template; documents: ids that documents begin with, at least
    one."""

    chat: Tokens | None
    documents: Sequence[Tokens]


def own_text(
    original: Original,
    openings: Openings,
    folder: Path,
    *,
    tokens: int,
    length: int,
    at_once: int,
    seed: int,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] = lambda done, total: None,
    tell: Tell = lambda line: None,
) -> list[Path]:
    """Files of all batches, in order: int32 (at_once, length) each, `tokens` or a little more together.

    folder: where they are stored and found again. share: (rank, processes): which of the missing ones to write.
    tell: takes a line for a person (Writer.write)."""
    batches = -(-tokens // (at_once * length))
    files = [folder / f"own-{number:05}.npy" for number in range(batches)]
    writer: Writer | None = None
    for number, path in enumerate(files):
        if number % share[1] == share[0] and not path.exists():
            random = np.random.default_rng([seed, number])
            begun = [_opening(openings, random) for _ in range(at_once)]
            writer = writer or Writer(original, at_once, length, TEMPERATURE)
            found = writer.write(begun, int(random.integers(1 << 62)), tell)
            with disk_errors(folder, found.nbytes):
                folder.mkdir(parents=True, exist_ok=True)
            with whole_file(path, found.nbytes) as file:
                file.write(_npy(found))
        progress(number + 1, batches)
    return files


def _npy(found: Tokens) -> bytes:
    """The bytes of the file: where NumPy writes to a full disk, its error does not say so."""
    whole = io.BytesIO()
    np.save(whole, found)
    return whole.getvalue()


def distinct(sequences: Tokens) -> Tokens:
    """Without those that came before, in order."""
    _, first = np.unique(sequences, axis=0, return_index=True)
    return sequences[np.sort(first)]


def _opening(openings: Openings, random: np.random.Generator) -> Tokens:
    if openings.chat is not None and random.random() < CHAT_SHARE:
        return openings.chat
    return openings.documents[int(random.integers(len(openings.documents)))]
