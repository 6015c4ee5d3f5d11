"""Reading texts, and the one that ships with the tool."""

from __future__ import annotations

import lzma
from pathlib import Path

from mobile_bundle.errors import InputError
from mobile_bundle.files import inputs

DEFAULT_TEXT = Path(__file__).with_name("default.txt.xz")
"""200 KB of English Wikipedia of 2014 (CC BY-SA; NOTICE.md beside it)."""
MOST_TEXT = 512 << 20
"""Bytes of a text, unpacked."""


def read_text(path: Path) -> str:
    """The text, UTF-8 or xz-compressed UTF-8, of at most MOST_TEXT bytes. Raises UserError when it cannot be read."""
    try:
        if path.suffix != ".xz":
            return inputs.read_text(path, MOST_TEXT)
        with open(inputs.open_regular(path), "rb") as packed, lzma.open(packed) as file:
            data = file.read(MOST_TEXT + 1)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MOST_TEXT:
        raise InputError(f"{path} has more than {MOST_TEXT:,} bytes of text, which is the limit", "use a part of it")
    return inputs.decode_text(data, path)
