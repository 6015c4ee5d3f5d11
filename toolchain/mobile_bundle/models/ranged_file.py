"""An open weight file that is read by byte ranges, whatever its format: nothing is mapped and nothing is held."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from mobile_bundle.errors import InputError
from mobile_bundle.files.inputs import open_regular

PIECE = 1 << 20
"""Bytes that are read at a time."""


class RangedFile(ABC):
    """path; size: bytes when it was opened; identity: of its content, as far as the file system knows it.

    A subclass reads the header in `_parse`. UserError if the file cannot be opened, or if the header is damaged.
    FileNotFoundError is left to the subclass, which knows what to give instead."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = open_regular(path)
        try:
            status = os.fstat(self._fd)
            self.size, self.identity = status.st_size, file_identity(status)
            self._parse()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _parse(self) -> None:
        """Reads and checks the header. UserError where it is damaged."""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes from `offset`; UserError if they cannot be read. Safe to call from several threads."""
        parts: list[bytes] = []
        while count > 0:
            try:
                part = os.pread(self._fd, count, offset)
            except OSError as error:
                raise InputError(f"cannot read {self.path}: {error.strerror}") from error
            if not part:
                raise InputError(f"{self.path} ended while it was read; is it still being downloaded?")
            parts.append(part)
            offset += len(part)
            count -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def check_unchanged(self) -> None:
        """UserError if the file of this name is not the one that was opened, or was written to since."""
        try:
            state = file_identity(os.stat(self.path))
        except OSError:
            state = ()
        if state != self.identity:
            raise changed(self.path)

    def _digest(self, kind: str, shape: tuple[int, ...], offset: int, count: int) -> str:
        """SHA-256, hexadecimal, of a tensor's type, shape and bytes. UserError if they cannot be read."""
        digest = hashlib.sha256(f"{kind}{list(shape)}".encode())
        for begin in range(0, count, PIECE):
            digest.update(self.read(offset + begin, min(PIECE, count - begin)))
        return digest.hexdigest()


def changed(path: Path) -> InputError:
    """What to tell a person whose checkpoint is written to while it is read."""
    return InputError(f"{path} changed while it was read", "run the command again when the checkpoint is complete")


def file_identity(status: os.stat_result) -> tuple[int, ...]:
    """Changes with every write, whatever date is given to the file afterwards: nobody can set st_ctime."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
