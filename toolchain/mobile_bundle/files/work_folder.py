"""Folders for unfinished work: locked by whoever works in them, and removed by the next one if that process was killed.

The lock (flock) is released by the kernel, whatever ends the process, so that a dead process's folder can be told from
a living one's."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobile_bundle.files.disk import disk_errors


class WorkFolder:
    """A new, locked folder ".NAME.partial-XXXXXXXX". Those of the same NAME that nobody works in are removed first.

    parent: an existing folder; folder: its descriptor, open until `close`. path: the new folder, which `close` removes
    with all that it holds if it still has that name. mode: as mkdir's. OSError if it cannot be made."""

    _lock = -1  # for __del__ after an end within __init__

    def __init__(self, parent: Path, name: str, mode: int = 0o777) -> None:
        self.parent = parent
        self._name = name
        self._made = False
        self._process = os.getpid()
        self.folder = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._remove_stale()
            while not self._make(mode):
                pass
        except BaseException:  # a signal may end the work at any step, also between making the folder and locking it
            if self._made:
                remove_tree(self.folder, self.path.name)
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1
            os.close(self.folder)
            raise

    def __del__(self) -> None:
        """For a signal that arrives after the folder was made and before `with` took it."""
        if self._lock >= 0 and self._process == os.getpid():  # a forked child holds a copy of what is not its own
            self.close()

    def __enter__(self) -> WorkFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes the folder unless it was renamed, and lets go of the lock."""
        if self._lock < 0:
            return
        if self.is_mine(self.path.name):
            remove_tree(self.folder, self.path.name)
        os.close(self._lock)
        os.close(self.folder)
        self._lock = -1

    def is_mine(self, name: str) -> bool:
        """Whether that name beside it is this folder's."""
        try:
            found = os.stat(name, dir_fd=self.folder, follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self._lock))

    def parent_now(self) -> Path:
        """Where the parent folder lies now; it may have been moved."""
        try:
            return Path(os.readlink(f"/proc/self/fd/{self.folder}"))
        except OSError:
            return self.parent

    def other_name(self) -> str:
        """A name for something else that whoever comes next may remove."""
        return f".{self._name}.partial-{secrets.token_hex(4)}"

    def _make(self, mode: int) -> bool:
        """False if another process took it for a dead one's before it was locked."""
        name = self.other_name()
        self.path = self.parent / name
        self._made = True
        try:
            os.mkdir(name, mode, dir_fd=self.folder)
        except OSError:
            self._made = False
            raise
        try:
            self._lock = _lock(self.folder, name)
        except (BlockingIOError, FileNotFoundError):
            self._made = False  # the other process's to remove
            return False
        if self.is_mine(name):
            return True
        self._made = False
        os.close(self._lock)
        self._lock = -1
        return False

    def _remove_stale(self) -> None:
        prefix = f".{self._name}.partial-"
        for name in os.listdir(self.folder):
            if not name.startswith(prefix) or len(name) != len(prefix) + 8:
                continue
            try:
                lock = _lock(self.folder, name)
            except OSError:
                continue  # someone still works there, or it is another user's, or no folder
            if os.fstat(lock).st_uid == os.geteuid():
                remove_tree(self.folder, name)
            os.close(lock)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder among the system's temporary files, private and gone at the end. What killed processes left is removed.

    UserError if it cannot be made."""
    parent = Path(tempfile.gettempdir())
    with disk_errors(parent, 0):
        work = WorkFolder(parent, "mobile-bundle", 0o700)
    with work:
        yield work.path


def remove_tree(folder: int, name: str) -> None:
    """Removes a tree as far as it can, its manifest first, so that what may be left never looks whole."""
    try:
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return
    try:
        os.unlink("manifest.json", dir_fd=inner)
    except OSError:
        pass
    finally:
        os.close(inner)
    shutil.rmtree(name, ignore_errors=True, dir_fd=folder)


def _lock(folder: int, name: str) -> int:
    """Locks the folder for as long as the descriptor is open. BlockingIOError if another process has."""
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
