"""A Hugging Face checkpoint directory: config.json and safetensors, single or sharded, read a few rows at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import InputError
from mobile_bundle.files.inputs import read_json_object
from mobile_bundle.models.foreign import refuse_adapter, refuse_other_paths, without_config, without_weights
from mobile_bundle.models.ranged_file import changed
from mobile_bundle.models.safetensors_file import SafetensorsFile, StoredTensor
from mobile_bundle.models.weight_files import INDEX, choose_weight_files

Floats = NDArray[np.float32]

Copy = tuple[SafetensorsFile, StoredTensor]
"""A tensor where it lies."""

_PIECE = 1 << 20
"""Bytes that are compared at a time."""


class CheckpointTensor:
    """A float tensor as a matrix source (codecs/source.py): bf16, f16, f32 or f64 in the file, float32 here.

    rows, columns: the matrix; a vector is one row. Values are checked: UserError names a tensor with NaN or infinities.
    """

    def __init__(self, file: SafetensorsFile, stored: StoredTensor) -> None:
        if stored.dtype not in ("BF16", "F16", "F32", "F64"):
            raise InputError(
                f"tensor {stored.name} in {file.path.name} is {stored.dtype}; weights must be BF16, F16, F32 or F64 "
                f"(save the checkpoint in one of these, or with the quantisation removed)"
            )
        shape = stored.shape
        if len(shape) == 3 and shape[1] == 1:  # a convolution that keeps its channels apart
            shape = (shape[0], shape[2])
        if not 1 <= len(shape) <= 2 or 0 in shape:
            raise InputError(f"tensor {stored.name} in {file.path.name} has the shape {list(stored.shape)}")
        self._file = file
        self._stored = stored
        self._shape = shape

    @property
    def name(self) -> str:
        return self._stored.name

    @property
    def rows(self) -> int:
        return self._shape[0] if len(self._shape) == 2 else 1

    @property
    def columns(self) -> int:
        return self._shape[-1]

    @property
    def dtype(self) -> str:
        """BF16, F16, F32 or F64: what the file holds."""
        return self._stored.dtype

    def chunks(self, chunk_rows: int, first: int = 0, last: int | None = None) -> Iterator[Floats]:
        """float32 (n, columns), n = chunk_rows but for the last; of rows first..last - 1 (None: to the end)."""
        row_bytes = self._stored.bytes // self.rows
        last = self.rows if last is None else last
        for begin in range(first, last, chunk_rows):
            count = min(chunk_rows, last - begin)
            data = self._file.read(self._stored.offset + begin * row_bytes, count * row_bytes)
            yield self._convert(data).reshape(count, self.columns)

    def read(self) -> Floats:
        """The whole tensor, float32 (rows, columns). For vectors and tests."""
        return next(self.chunks(self.rows))

    def _convert(self, data: bytes) -> Floats:
        if self._stored.dtype == "F32":
            floats = np.frombuffer(data, "<f4").astype(np.float32, copy=False)
            finite = (floats.view(np.uint32) & np.uint32(0x7FFFFFFF)).max() < 0x7F800000
        elif self._stored.dtype == "BF16":
            bits = np.frombuffer(data, "<u2")
            finite = (bits & np.uint16(0x7FFF)).max() < 0x7F80
            floats = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
        elif self._stored.dtype == "F64":
            with np.errstate(over="ignore"):
                floats = np.frombuffer(data, "<f8").astype(np.float32)
            finite = bool(np.isfinite(floats).all())
        else:
            halves = np.frombuffer(data, "<f2")
            finite = (halves.view(np.uint16) & np.uint16(0x7FFF)).max() < 0x7C00
            floats = halves.astype(np.float32)
        if not finite:
            raise InputError(f"tensor {self.name} holds NaN or infinite values; the checkpoint is damaged or diverged")
        return floats


class Checkpoint:
    """The directory as downloaded. Opening reads config.json and the headers of the weight files, no weights."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        refuse_other_paths(self.directory)
        refuse_adapter(self.directory)
        config = self._json("config.json")
        if config is None:
            raise without_config(self.directory)
        self.config = config
        self.notes: list[str] = []
        self._tensors: dict[str, Copy] = {}
        self._files: list[SafetensorsFile] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    config: dict[str, Any]
    notes: list[str]
    """What a person should know of the choice of weight files."""

    @property
    def files(self) -> list[Path]:
        """The weight files that are read."""
        return [file.path for file in self._files]

    @property
    def path(self) -> Path:
        """What open_model opened."""
        return self.directory

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def names(self) -> list[str]:
        """Names of all tensors."""
        return list(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def dtype(self, name: str) -> str:
        """safetensors' name of the dtype. UserError if the tensor is missing."""
        return self._find(name)[1].dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """UserError if the tensor is missing."""
        return self._find(name)[1].shape

    def tensor(self, name: str, shape: tuple[int, ...]) -> CheckpointTensor:
        """The tensor of that name. UserError if it is missing, of another shape or not of floats."""
        file, stored = self._find(name)
        self._expect(stored, shape)
        return CheckpointTensor(file, stored)

    def scalar(self, name: str) -> np.float32:
        """A float tensor of one value, whatever its number of dimensions."""
        file, stored = self._find(name)
        flat = StoredTensor(name, stored.dtype, (math.prod(stored.shape),), stored.offset, stored.bytes)
        return np.float32(CheckpointTensor(file, flat).read()[0, 0])

    def read_bytes(self, name: str, shape: tuple[int, ...], begin: int, end: int) -> NDArray[np.uint8]:
        """Rows begin..end-1 of a U8 matrix of that shape, uint8 (end - begin, columns)."""
        file, stored = self._find(name)
        self._expect(stored, shape)
        if stored.dtype != "U8":
            raise InputError(f"tensor {name} is {stored.dtype}, expected U8 (packed weights)")
        columns = shape[1]
        data = file.read(stored.offset + begin * columns, (end - begin) * columns)
        return np.frombuffer(data, np.uint8).reshape(end - begin, columns)

    def digest(self, name: str) -> str:
        """SHA-256 of a tensor's dtype, shape and bytes. UserError if it is missing or cannot be read."""
        file, stored = self._find(name)
        return file.digest(stored)

    def check_unchanged(self) -> None:
        """UserError if config.json or a weight file is not what it was when the checkpoint was opened."""
        for file in self._files:
            file.check_unchanged()
        if self._json("config.json") != self.config:
            raise changed(self.directory / "config.json")

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON object beside the weights, or None if there is no such file. UserError if it is damaged."""
        return self._json(name)

    def same_values(self, first: str, second: str) -> bool:
        """Whether two tensors have the same shape and values. UserError if one is missing."""
        return _same_values(self._find(first), self._find(second))

    def _find(self, name: str) -> Copy:
        if name not in self._tensors:
            raise InputError(f"{self.directory} has no tensor {name}; is the checkpoint complete?")
        return self._tensors[name]

    def _expect(self, stored: StoredTensor, shape: tuple[int, ...]) -> None:
        if stored.shape != shape:
            raise InputError(
                f"tensor {stored.name} has the shape {list(stored.shape)}, config.json asks for {list(shape)}"
            )

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self.directory / name
        try:
            return read_json_object(path)
        except FileNotFoundError:
            if path.is_symlink():
                raise InputError(f"{path} is a link to a file that does not exist", "download it again") from None
            return None

    def _open(self) -> None:
        chosen = choose_weight_files(self.directory, self.config.get("transformers_weights"), self._json(INDEX))
        if chosen is None:
            raise without_weights(self.directory)
        self.notes += chosen.notes
        copies: dict[str, list[Copy]] = {}
        for name in chosen.names:
            file = SafetensorsFile(self.directory / name)
            self._files.append(file)
            for stored in file.tensors.values():
                copies.setdefault(stored.name, []).append((file, stored))
        for tensor, shard in chosen.weight_map.items():
            if tensor not in copies:
                raise InputError(f"{INDEX} says that {shard} holds {tensor}, but it does not", "download both again")
        for tensor, found in copies.items():
            self._tensors[tensor] = found[0] if len(found) == 1 else _named_copy(found, chosen.weight_map.get(tensor))
        self._note_copies({tensor: found for tensor, found in copies.items() if len(found) > 1})

    def _note_copies(self, copies: dict[str, list[Copy]]) -> None:
        """transformers reads all files and keeps the last copy of a tensor, whatever the index says."""
        if not copies:
            return
        first = min(copies)
        self.notes.append(
            f"{len(copies)} tensors are in more than one file, {first} among them; those that {INDEX} names are used"
        )
        differ = sorted(name for name, found in copies.items() if not _same_values(self._tensors[name], found[-1]))
        if differ:
            other = copies[differ[0]][-1][0].path.name
            self.notes.append(f"the copies of {differ[0]} differ, and transformers takes the one in {other}")


def _named_copy(found: list[Copy], shard: str | None) -> Copy:
    """Of the copies of a tensor in several files, the one in the file that the index names."""
    named = next((copy for copy in found if copy[0].path.name == shard), None)
    if named is None:
        names = " and ".join(file.path.name for file, _ in found)
        raise InputError(f"tensor {found[0][1].name} is in two files, {names}, and no index says which one to use")
    return named


_COMPARED: dict[tuple[object, ...], bool] = {}
"""Results of _same_values: a worker opens the same checkpoint for every tensor that it codes."""


def _same_values(first: Copy, second: Copy) -> bool:
    """Whether two tensors of one checkpoint have the same shape and values. Streamed; ends where they differ."""
    if first[1].shape != second[1].shape:
        return False
    key = (first[0].identity, first[1], second[0].identity, second[1])
    if first is not second and key not in _COMPARED:
        _COMPARED[key] = _compare(first, second)
    return first is second or _COMPARED[key]


def _compare(first: Copy, second: Copy) -> bool:
    if first[1].dtype != second[1].dtype:
        one, other = CheckpointTensor(*first), CheckpointTensor(*second)
        rows = max(1, _PIECE // (4 * one.columns))
        return all(np.array_equal(a, b) for a, b in zip(one.chunks(rows), other.chunks(rows), strict=True))
    size = first[1].bytes
    for begin in range(0, size, _PIECE):
        count = min(_PIECE, size - begin)
        if first[0].read(first[1].offset + begin, count) != second[0].read(second[1].offset + begin, count):
            return False
    return True
