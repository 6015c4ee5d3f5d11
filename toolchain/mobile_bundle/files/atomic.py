"""A directory that appears whole or not at all.

It is built under a temporary name beside its target (work_folder.py), synced, and renamed at the end. A directory that
was there when the work began is exchanged for the new one in a single step, then removed; anything else that stands at
the name by then is left alone, and the new directory gets another name (commit.py)."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from mobile_bundle.errors import OutputError
from mobile_bundle.files.commit import give_name
from mobile_bundle.files.disk import disk_errors, sync_tree
from mobile_bundle.files.rename import Place
from mobile_bundle.files.work_folder import WorkFolder, remove_tree


class AtomicDirectory:
    """Context manager: `path` is the temporary directory to fill; nothing appears at the target without `commit`.

    obstacle: why a directory that is not empty may not be replaced (it is not a bundle, but somebody's home); None if
    it may. fingerprint: tells one directory that may be replaced from another. UserError for such an obstacle, and
    where nothing can be written."""

    def __init__(
        self,
        target: str | os.PathLike[str],
        obstacle: Callable[[Path], str | None],
        fingerprint: Callable[[Path], str],
    ) -> None:
        self.target = Path(os.path.realpath(target))
        self.path = self.target
        self._obstacle, self._fingerprint = obstacle, fingerprint

    def __enter__(self) -> AtomicDirectory:
        with disk_errors(self.target, 0):
            self._before = self._look()
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._work = WorkFolder(self.target.parent, self.target.name)
        self.path = self._work.path
        return self

    @property
    def replaces(self) -> bool:
        """Whether a directory with something in it stood at the target in the beginning."""
        return self._before is not None and bool(self._before[1])

    def commit(self) -> None:
        """Syncs everything and gives the directory its name. UserError if the disk refuses; OutputTaken (commit.py) if
        something that was not there before stands at the target."""
        with disk_errors(self.target, 0):
            sync_tree(self._work.parent_now() / self.path.name)
            source = Place(self._work.folder, self.path.name)
            try:
                old = give_name(self._work, source, self.target.name, self._before is not None, self._known)
            finally:
                os.fsync(self._work.folder)
            if old is not None:
                remove_tree(old.folder, old.name)
                os.fsync(self._work.folder)

    def __exit__(self, *_: object) -> None:
        self._work.close()

    def _look(self) -> tuple[os.stat_result, str] | None:
        """What stands at the target: its status, and its fingerprint unless it is empty. UserError if it must stay."""
        try:
            status = os.lstat(self.target)
        except FileNotFoundError:
            return None
        if not stat.S_ISDIR(status.st_mode):
            raise OutputError(f"{self.target} is a file", "choose another name for the bundle")
        if not os.listdir(self.target):
            return status, ""
        if why := self._obstacle(self.target):
            raise OutputError(f"{self.target} {why}", "choose another name, or move it away")
        return status, self._fingerprint(self.target)

    def _known(self, place: Place) -> bool:
        """Whether the directory of that name is the one that stood at the target in the beginning."""
        assert self._before is not None
        before, fingerprint = self._before
        status = place.status()
        if status is None or not stat.S_ISDIR(status.st_mode) or not os.path.samestat(status, before):
            return False
        path = self.target.with_name(place.name)
        if not fingerprint or not os.listdir(path):
            return not fingerprint and not os.listdir(path)
        return self._obstacle(path) is None and self._fingerprint(path) == fingerprint
