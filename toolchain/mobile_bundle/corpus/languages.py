"""The texts that a vocabulary is taken from: a user's, and those of languages that ship with the tool."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mobile_bundle.corpus.text import DEFAULT_TEXT, read_text
from mobile_bundle.errors import ArgumentError

LANGUAGES = {"en": DEFAULT_TEXT}
"""By ISO 639 code."""


def vocabulary_texts(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None, languages: Sequence[str]
) -> tuple[str, ...]:
    """The texts of all files and languages. ArgumentError for a language without a text, InputError for a file that
    cannot be read."""
    for language in languages:
        if language not in LANGUAGES:
            raise ArgumentError(
                f"`languages`: no text of {language!r} ships with this tool, only of {', '.join(LANGUAGES)}",
                "give a text in that language with `vocabulary_from`",
            )
    paths = [] if files is None else [files] if isinstance(files, (str, os.PathLike)) else list(files)
    return tuple(read_text(path) for path in [*map(Path, paths), *(LANGUAGES[each] for each in languages)])
