"""git-lfs pointers: small files that a clone without git-lfs has in place of the large ones."""

from __future__ import annotations

from pathlib import Path

from mobile_bundle.errors import InputError

_START = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(path: Path, head: bytes) -> None:
    """UserError if a file that begins with `head` is such a pointer."""
    if head.startswith(_START):
        raise InputError(
            f"{path} is a git-lfs pointer, not the file itself: run `git lfs install` and `git lfs pull` in its "
            f"directory, or download the file again"
        )
