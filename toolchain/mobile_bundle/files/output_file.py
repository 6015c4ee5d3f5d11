"""A file that a command writes, whole or not at all, once or again and again."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mobile_bundle.errors import OutputError
from mobile_bundle.files.commit import give_name
from mobile_bundle.files.disk import disk_errors, write_file
from mobile_bundle.files.rename import Place
from mobile_bundle.files.work_folder import WorkFolder


class OutputFile:
    """The file at a path that a person named; a link is followed. A file that exists may be replaced, and so may what
    is written here, until somebody else replaces or changes it.

    UserError if the path is not a file, or if its folder does not exist or cannot be written."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.realpath(path))
        if self.path.exists() and not self.path.is_file():
            raise OutputError(f"{path} cannot be written: it is not a file")
        try:
            self.work_folder().close()  # or fail before any work
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written ({error.strerror}): it must be a file in a folder that exists and is yours"
            ) from error
        self._before = _identity(self._status())

    def write(self, data: bytes) -> None:
        """Replaces the file, synced. UserError if the disk refuses; OutputTaken (commit.py) if somebody else wrote to
        it: then the data have another name."""
        with disk_errors(self.path, len(data)), self.work_folder() as work:
            write_file(work.path / self.path.name, data)
            self.commit(work)

    def write_text(self, text: str) -> None:
        """As `write`, in UTF-8. A character that UTF-8 has no bytes for becomes a question mark."""
        self.write(text.encode("utf-8", "replace"))

    def work_folder(self) -> WorkFolder:
        """A folder beside the file, to make a file of the same name in. OSError if that is not possible."""
        return WorkFolder(self.path.parent, self.path.name)

    def commit(self, work: WorkFolder) -> None:
        """Replaces the file by the one of its name in the folder, which is synced already. Errors: `write`'s, but for
        OSError."""
        inside = os.open(work.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            written = os.stat(self.path.name, dir_fd=inside)
            source = Place(inside, self.path.name)
            try:
                give_name(work, source, self.path.name, self._before is not None, self._known)
            finally:
                os.fsync(work.folder)
        finally:
            os.close(inside)
        self._before = _identity(written)

    def _status(self) -> os.stat_result | None:
        try:
            return os.lstat(self.path)
        except FileNotFoundError:
            return None

    def _known(self, place: Place) -> bool:
        return _identity(place.status()) == self._before


def _identity(status: os.stat_result | None) -> tuple[int, ...] | None:
    """What tells a file from another, and from itself after a change."""
    if status is None:
        return None
    kind = stat.S_IFMT(status.st_mode)
    return kind, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
