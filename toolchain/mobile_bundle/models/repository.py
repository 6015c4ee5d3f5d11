"""The name of a model: its directory's, or its repository's if it lies in the hub's cache."""

from __future__ import annotations

from pathlib import Path

from mobile_bundle.errors import printable


def model_name(directory: Path) -> str:
    """The directory's name. In the hub's cache, models--OWNER--NAME/snapshots/REVISION, it is NAME, with the path below
    the revision behind it (huggingface_hub's file_download.py lays the cache out so)."""
    path = directory.resolve()
    parts = path.parts
    for at in range(len(parts) - 2):
        if parts[at].startswith("models--") and parts[at + 1] == "snapshots":
            repository = parts[at].split("--")[-1]
            if repository:
                return printable("-".join([repository, *parts[at + 3 :]]))
    return printable(path.name)
