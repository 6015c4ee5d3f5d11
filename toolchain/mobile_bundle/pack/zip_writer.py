"""A ZIP whose bytes depend on its contents alone, with stored entries that begin where a program can map them.

An entry is stored where that is asked for, or where deflate makes it no smaller. The place of a stored entry is moved
to a multiple of `alignment` by an extra field that Android's zipalign defined for that (0xD935: uint16 alignment,
zeros) and every reader skips.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

PIECE = 1 << 20
_ALIGNMENT_FIELD = 0xD935
_FIELD_BYTES = 6  # id, size, alignment
_LOCAL_HEADER_BYTES = 30
_ZIP64_FIELD_BYTES = 20
_WORD = 4
_EARLIEST = (1980, 1, 1, 0, 0, 0)


class ZipWriter:
    """Adds files, in order, to a ZIP that is being made. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path, "w", allowZip64=True)

    def __enter__(self) -> ZipWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def add(self, name: str, source: Path, *, alignment: int, executable: bool) -> zipfile.ZipInfo:
        """Adds a file under a name with forward slashes. alignment: 0 has it deflated if that is smaller; otherwise it
        is stored, at a multiple of so many bytes."""
        size = source.stat().st_size
        info = zipfile.ZipInfo(name, _EARLIEST)
        info.create_system = 3  # Unix, whatever machine this is
        info.external_attr = (0o100755 if executable else 0o100644) << 16
        info.file_size = size
        if alignment == 0 and _deflated_bytes(source) < size:
            info.compress_type = zipfile.ZIP_DEFLATED
        else:
            info.compress_type = zipfile.ZIP_STORED
            info.extra = self._padding(info, alignment or _WORD)
        with self._zip.open(info, "w") as out, open(source, "rb") as file:
            while piece := file.read(PIECE):
                out.write(piece)
        return info

    def _padding(self, info: zipfile.ZipInfo, alignment: int) -> bytes:
        large = info.file_size * 1.05 > zipfile.ZIP64_LIMIT  # as zipfile decides it
        assert self._zip.fp is not None
        data = self._zip.fp.tell() + _LOCAL_HEADER_BYTES + len(info.filename.encode("utf-8"))
        data += _FIELD_BYTES + (_ZIP64_FIELD_BYTES if large else 0)
        zeros = -data % alignment
        return struct.pack("<HHH", _ALIGNMENT_FIELD, 2 + zeros, alignment) + bytes(zeros)


def _deflated_bytes(source: Path) -> int:
    """What deflate makes of a file."""
    coder, total = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -zlib.MAX_WBITS), 0
    with open(source, "rb") as file:
        while piece := file.read(PIECE):
            total += len(coder.compress(piece))
    return total + len(coder.flush())
