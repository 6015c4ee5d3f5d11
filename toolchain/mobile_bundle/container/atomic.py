"""A directory that appears whole or not at all.

It is built under a temporary name beside its target, synced, and renamed at the end. A directory that is there already
is exchanged for the new one in a single step (renameat2 on Linux; elsewhere two renames), then removed. A build that is
killed leaves only a directory called ".NAME.partial-XXXXXXXX", which the next build of the same target removes; the
lock that every build holds on its own (flock, released by the kernel) tells a dead build's from a running one's.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from mobile_bundle.container.disk import disk_errors, sync_directory, sync_tree
from mobile_bundle.errors import UserError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class AtomicDirectory:
    """Context manager: `path` is the temporary directory to fill; nothing appears at the target without `commit`.

    replaceable: whether a non-empty directory at the target may be replaced (is it a bundle, not somebody's home?).
    """

    def __init__(self, target: str | os.PathLike[str], replaceable: Callable[[Path], bool]) -> None:
        self.target = Path(os.path.realpath(target))
        self._replaceable = replaceable
        self._lock = -1
        self.path = self.target

    def __enter__(self) -> AtomicDirectory:
        if self.target.exists():
            if not self.target.is_dir():
                raise UserError(f"{self.target} is a file; choose another name for the bundle")
            if any(self.target.iterdir()) and not self._replaceable(self.target):
                raise UserError(f"{self.target} exists and is not a bundle; choose another name, or remove it")
        with disk_errors(self.target, 0):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._remove_stale()
            self._make()
        return self

    def commit(self) -> None:
        """Syncs everything and gives the directory its name. UserError if the disk refuses."""
        with disk_errors(self.target, 0):
            sync_tree(self.path)
            if not self.target.exists() or not any(self.target.iterdir()):
                os.rename(self.path, self.target)
                self._close()
            elif _exchange(self.path, self.target):
                self._close()
                _remove(self.path)
            else:
                old = self._temporary_name()
                os.rename(self.target, old)
                os.rename(self.path, self.target)
                self._close()
                _remove(old)
            sync_directory(self.target.parent)

    def __exit__(self, *_: object) -> None:
        if self._lock >= 0:
            _remove(self.path)
            self._close()

    def _temporary_name(self) -> Path:
        return self.target.with_name(f".{self.target.name}.partial-{secrets.token_hex(4)}")

    def _make(self) -> None:
        while True:
            self.path = self._temporary_name()
            self.path.mkdir()
            self._lock = _lock(self.path)
            if self.path.is_dir():  # another build may have taken it for stale before it was locked
                return
            self._close()

    def _close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _remove_stale(self) -> None:
        for path in self.target.parent.glob(f".{glob_escape(self.target.name)}.partial-????????"):
            try:
                lock = _lock(path)
            except OSError:
                continue  # a build that is still running
            _remove(path)
            os.close(lock)


def glob_escape(name: str) -> str:
    """The name with the characters that mean something to glob made literal."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _lock(path: Path) -> int:
    """Locks the directory for as long as the descriptor is open. BlockingIOError if another process has."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove(path: Path) -> None:
    """Removes a tree, the manifest first, so that what may be left never looks whole."""
    (path / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two directories in one step. False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    status = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE))
    return bool(status == 0)
