"""Renames that never overwrite an unknown file, by Linux's renameat2, or the closest thing where that is missing.

Names are relative to open folders, so that moving or replacing a folder meanwhile changes nothing."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from dataclasses import dataclass

_NOREPLACE = 1
_EXCHANGE = 2
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Place:
    """A name in an open folder (its descriptor)."""

    folder: int
    name: str

    def status(self) -> os.stat_result | None:
        """lstat of what has that name, or None. OSError if it cannot be asked."""
        try:
            return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None


def rename_new(source: Place, target: Place) -> None:
    """Renames; FileExistsError if there is anything at the target, be it an empty folder or a dangling link."""
    code = _renameat2(source, target, _NOREPLACE)
    if code not in _UNSUPPORTED:
        if code:
            raise OSError(code, os.strerror(code), target.name)
        return
    taken = FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target.name)
    if target.status() is not None:
        raise taken
    status = source.status()
    if status is not None and stat.S_ISREG(status.st_mode):
        try:  # a link never replaces anything
            os.link(source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder)
        except FileExistsError:
            raise taken from None
        except OSError:  # a file system without links
            os.rename(source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder)
        else:
            os.unlink(source.name, dir_fd=source.folder)
        return
    # a folder is never renamed over a file, a link or a folder with something in it
    os.rename(source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder)


def exchange(one: Place, other: Place) -> bool:
    """Swaps two names in one step. False, with nothing done, where the system or the file system cannot.

    FileNotFoundError if either is gone; other OSErrors as rename's."""
    code = _renameat2(one, other, _EXCHANGE)
    if code and code not in _UNSUPPORTED:
        raise OSError(code, os.strerror(code), other.name)
    return code == 0


def _renameat2(source: Place, target: Place, flags: int) -> int:
    """The error number; 0 if it is done."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return errno.ENOSYS
    status = call(
        source.folder, os.fsencode(source.name), target.folder, os.fsencode(target.name), ctypes.c_uint(flags)
    )
    return ctypes.get_errno() if status else 0
