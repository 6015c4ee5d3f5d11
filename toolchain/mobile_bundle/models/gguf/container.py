"""The container of a GGUF file: its metadata, and where its tensors lie.

Format (github.com/ggml-org/ggml/blob/master/docs/gguf.md), little endian:
  "GGUF", uint32 version (2 or 3), uint64 tensors, uint64 metadata entries
  metadata   string key, uint32 type, value; a string is uint64 n and n bytes, an array uint32 type, uint64 n, n values
  tensors    string name, uint32 dimensions, uint64 per dimension (columns first), uint32 type, uint64 offset
  data       from the next multiple of general.alignment (32); offsets count from here

It is parsed here, not by gguf.GGUFReader: that one trusts every count and length in the file (an array that claims
2**60 values keeps it busy for ever), makes two objects per token, and maps the file. Here every length is checked
against the file before it is used, memory is bounded by the metadata, and tensors are read with pread a few rows at a
time.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobile_bundle.errors import InputError, UnsupportedError, UserError
from mobile_bundle.files.git_lfs import refuse_pointer
from mobile_bundle.models.gguf.library import library, version
from mobile_bundle.models.ranged_file import PIECE, RangedFile

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32
_MOST_ENTRIES = 1 << 16  # metadata entries, and tensors
_MOST_VALUES = 1 << 22  # of an array: tokens and merges are fewer
_MOST_METADATA = 256 << 20  # bytes
_LONGEST_NAME = 1 << 10
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", _BOOL: "<u1", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip


def is_gguf(path: str | os.PathLike[str]) -> bool:
    """Whether the path is meant as a GGUF file: by its name, or by its first bytes."""
    path = Path(path)
    if path.suffix.lower() == ".gguf":
        return not path.is_dir()
    try:
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            return file.read(4) == _MAGIC
    except OSError:
        return False


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies. type: its GGML type's name; shape: (rows, columns), or (columns,); offset: bytes from the
    start of the file; row_bytes: of one row; bytes: of all."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    row_bytes: int
    bytes: int


class GgufFile(RangedFile):
    """An open file and its checked header. metadata: by key; arrays are lists, those of texts lists of bytes. tensors:
    by name.

    UserError where the file is damaged, or of a kind that is not read."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, GgufTensor] = {}
        try:
            super().__init__(Path(path))
        except FileNotFoundError:
            raise InputError(f"{path} is not there", "give a GGUF file") from None

    def digest(self, tensor: GgufTensor) -> str:
        """SHA-256, hexadecimal, of a tensor's type, shape and bytes. UserError if they cannot be read."""
        return self._digest(tensor.type, tensor.shape, tensor.offset, tensor.bytes)

    def _parse(self) -> None:
        cursor = _Cursor(self)
        refuse_pointer(self.path, self.read(0, min(self.size, 64)))
        magic = cursor.take(4)
        if magic != _MAGIC:
            raise InputError(f"{self.path} is not a GGUF file: it begins with {magic!r}")
        number = cursor.number("<I")
        if number & 0xFFFF == 0 and number:
            raise UnsupportedError(
                f"{self.path} is big-endian; only little-endian GGUF is read: convert it with llama.cpp"
            )
        if number not in _VERSIONS:
            raise UnsupportedError(f"{self.path} is GGUF version {number}; versions 2 and 3 are read")
        tensors, entries = cursor.count("tensors", _MOST_ENTRIES), cursor.count("metadata entries", _MOST_ENTRIES)
        for _ in range(entries):
            key = cursor.string(_LONGEST_NAME)
            if key in self.metadata:
                raise cursor.damaged(f"the key {key} is there twice")
            self.metadata[key] = cursor.value(cursor.number("<I"))
        self._refuse_parts()
        infos = [self._info(cursor) for _ in range(tensors)]
        data = cursor.position
        data += -data % self._alignment(cursor)
        for name, kind, shape, offset in infos:
            if name in self.tensors:
                raise cursor.damaged(f"the tensor {name} is there twice")
            self.tensors[name] = self._tensor(cursor, name, kind, shape, data + offset)
        self._refuse_overlaps(cursor)

    def _refuse_parts(self) -> None:
        """A model in several files: each of them has only some of the tensors."""
        count = self.metadata.get("split.count", 1)
        if isinstance(count, int) and count > 1:
            part = self.metadata.get("split.no")
            which = f"part {part + 1} of {count}" if isinstance(part, int) else f"one of {count} parts"
            raise InputError(
                f"{self.path} is {which}", "join them with llama.cpp: llama-gguf-split --merge FIRST_PART OUT.gguf"
            )

    def _alignment(self, cursor: _Cursor) -> int:
        alignment = self.metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise cursor.damaged(f"general.alignment is {alignment!r}, not a power of two")
        return alignment

    def _info(self, cursor: _Cursor) -> tuple[str, int, tuple[int, ...], int]:
        name = cursor.string(_LONGEST_NAME)
        dimensions = cursor.number("<I")
        if not 1 <= dimensions <= 4:
            raise cursor.damaged(f"the tensor {name} has {dimensions} dimensions")
        sizes = [cursor.number("<Q") for _ in range(dimensions)]
        return name, cursor.number("<I"), tuple(reversed(sizes)), cursor.number("<Q")

    def _tensor(self, cursor: _Cursor, name: str, kind: int, shape: tuple[int, ...], offset: int) -> GgufTensor:
        constants = library("constants")
        try:
            type_ = constants.GGMLQuantizationType(kind)
        except ValueError:
            raise UnsupportedError(
                f"{self.path}: the tensor {name} is of GGML type {kind}, which gguf {version()} does not know; "
                f"try a newer one: pip install --upgrade gguf"
            ) from None
        block, block_bytes = constants.GGML_QUANT_SIZES[type_]
        if 0 in shape:
            raise cursor.damaged(f"the tensor {name} has the shape {list(shape)}")
        if shape[-1] % block:
            raise cursor.damaged(f"{name} has rows of {shape[-1]} values, {type_.name} blocks of {block}")
        row_bytes = shape[-1] // block * block_bytes
        size = math.prod(shape[:-1]) * row_bytes
        if offset + size > self.size:
            raise InputError(
                f"{self.path} is truncated: the tensor {name} ends at byte {offset + size}, the file at {self.size}; "
                f"download it again"
            )
        return GgufTensor(name, type_.name, shape, offset, row_bytes, size)

    def _refuse_overlaps(self, cursor: _Cursor) -> None:
        end, before = cursor.position, "the header"
        for tensor in sorted(self.tensors.values(), key=lambda tensor: tensor.offset):
            if tensor.offset < end:
                raise cursor.damaged(f"the tensor {tensor.name} lies over {before}")
            end, before = tensor.offset + tensor.bytes, tensor.name


class _Cursor:
    """Reads the header forwards; a growing part of it is in RAM. UserError where the file ends too early."""

    def __init__(self, file: GgufFile) -> None:
        self.position = 0
        self._file = file
        self._data = b""

    def damaged(self, what: str) -> UserError:
        return InputError(f"{self._file.path} is damaged: {what}", "download it again")

    def take(self, count: int) -> bytes:
        begin = self._need(count)
        return self._data[begin : begin + count]

    def number(self, form: str) -> int:
        """One whole number in struct's notation."""
        begin = self._need(struct.calcsize(form))
        return int(struct.unpack_from(form, self._data, begin)[0])

    def count(self, what: str, most: int) -> int:
        found = self.number("<Q")
        if found > most:
            raise self.damaged(f"it claims {found} {what}, more than {most}")
        return found

    def string(self, most: int) -> str:
        length = self.number("<Q")
        if length > most:
            raise self.damaged(f"a string of its header claims {length} bytes")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self.damaged("its header holds text that is not UTF-8") from None

    def value(self, kind: int) -> Any:
        """A value of metadata: int, float, bool, str, or a list of one of them (of texts: as bytes)."""
        if kind == _STRING:
            return self.string(_MOST_METADATA)
        if kind == _ARRAY:
            inner, count = self.number("<I"), self.count("values of an array", _MOST_VALUES)
            return self._strings(count) if inner == _STRING else self._scalars(inner, count)
        return self._scalars(kind, 1)[0]

    def _strings(self, count: int) -> list[bytes]:
        """In a tight loop: a worker reads 300,000 of them, which it does not need, for every tensor that it codes."""
        found = []
        at, data = self.position, self._data
        for _ in range(count):
            begin = at + 8
            at = begin + int.from_bytes(data[begin - 8 : begin], "little")
            if begin > len(data) or at > len(data):
                self.position = begin - 8
                self._need(8)
                self._need(int.from_bytes(self._data[begin - 8 : begin], "little"))
                at, data = self.position, self._data
            found.append(data[begin:at])
        self.position = at
        return found

    def _scalars(self, kind: int, count: int) -> list[Any]:
        if kind not in _SCALARS:
            raise self.damaged(f"its metadata holds a value of type {kind}")
        dtype = np.dtype(_SCALARS[kind])
        values = np.frombuffer(self.take(count * dtype.itemsize), dtype)
        listed: list[Any] = (values != 0).tolist() if kind == _BOOL else values.tolist()
        return listed

    def _need(self, count: int) -> int:
        """Makes the next `count` bytes available and moves on; where they begin in the data."""
        begin = self.position
        end = begin + count
        if end > len(self._data):
            if end > self._file.size:
                raise InputError(
                    f"{self._file.path} is truncated inside its header ({self._file.size} bytes)", "download it again"
                )
            if end > _MOST_METADATA:
                raise self.damaged(f"its header is longer than {_MOST_METADATA >> 20} MiB")
            have = len(self._data)
            more = min(max(end, 2 * have, PIECE), self._file.size) - have
            self._data += self._file.read(have, more)
        self.position = end
        return begin
