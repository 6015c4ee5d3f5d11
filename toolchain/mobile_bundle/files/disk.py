"""Writes that survive a power cut, and one-line messages for what the operating system refuses."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mobile_bundle.errors import ResumableError


@contextmanager
def disk_errors(path: Path, needed: int) -> Iterator[None]:
    """OSError while writing `path`, which needs `needed` bytes (0: not known), becomes a ResumableError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            size = f"{needed / 1e6:.1f} MB" if needed >= 100_000 else f"{needed / 1e3:.1f} kB"
            what = f"no room for {path}" + (f": it needs {size}" if needed else "")
            raise ResumableError(what, "free some space or choose another place") from error
        raise ResumableError(f"cannot write {path}: {error.strerror or error}") from error


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Creates or replaces a file, synced to the disk. ResumableError if that fails."""
    with disk_errors(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)


@contextmanager
def whole_file(path: Path, needed: int = 0) -> Iterator[BinaryIO]:
    """A file to write, which has its name only when all of it is on the disk. needed: its bytes, 0: not known.
    ResumableError if writing fails."""
    unfinished = path.with_name(path.name + ".unfinished")
    with disk_errors(path, needed):
        try:
            with unfinished.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)  # where the disk is full, its room is wanted
            raise


def reserve(descriptor: int, size: int) -> None:
    """Gives a new file its size in bytes, set aside on the disk where the file system can: a full disk is then noticed
    now, not in an hour, and not by the signal that a mapped file without room ends in. OSError if there is no room."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(descriptor, size)


def drop_cached(path: Path) -> None:
    """Asks the system to forget its cached pages of a synced file: nobody else's files should make room for it, and
    whoever maps it next gets pages as large as the file system can read, not as small as they were written."""
    if hasattr(os, "posix_fadvise"):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """Syncs every file and folder of the tree, and the folder it is in."""
    for folder, _, files in os.walk(directory):
        for name in files:
            _sync(Path(folder, name))
        _sync(Path(folder))
    _sync(directory.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
