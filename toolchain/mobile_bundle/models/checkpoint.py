"""A Hugging Face checkpoint directory: config.json and safetensors, single or sharded, read a few rows at a time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import UserError
from mobile_bundle.models.safetensors_file import SafetensorsFile, StoredTensor, changed

Floats = NDArray[np.float32]

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


class CheckpointTensor:
    """A float tensor as a matrix source (codecs/source.py): bf16, f16 or f32 in the file, float32 here.

    rows, columns: the matrix; a vector is one row. Values are checked: UserError names a tensor with NaN or infinities.
    """

    def __init__(self, file: SafetensorsFile, stored: StoredTensor) -> None:
        if stored.dtype not in ("BF16", "F16", "F32"):
            raise UserError(
                f"tensor {stored.name} in {file.path.name} is {stored.dtype}; weights must be BF16, F16 or F32 "
                f"(save the checkpoint in one of these, or with the quantisation removed)"
            )
        if not 1 <= len(stored.shape) <= 2 or 0 in stored.shape:
            raise UserError(f"tensor {stored.name} in {file.path.name} has the shape {list(stored.shape)}")
        self._file = file
        self._stored = stored

    @property
    def name(self) -> str:
        return self._stored.name

    @property
    def rows(self) -> int:
        return self._stored.shape[0] if len(self._stored.shape) == 2 else 1

    @property
    def columns(self) -> int:
        return self._stored.shape[-1]

    @property
    def dtype(self) -> str:
        """BF16, F16 or F32: what the file holds."""
        return self._stored.dtype

    def chunks(self, chunk_rows: int) -> Iterator[Floats]:
        """float32 (n, columns), n = chunk_rows but for the last."""
        row_bytes = self._stored.bytes // self.rows
        for begin in range(0, self.rows, chunk_rows):
            count = min(chunk_rows, self.rows - begin)
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
        else:
            halves = np.frombuffer(data, "<f2")
            finite = (halves.view(np.uint16) & np.uint16(0x7FFF)).max() < 0x7C00
            floats = halves.astype(np.float32)
        if not finite:
            raise UserError(f"tensor {self.name} holds NaN or infinite values; the checkpoint is damaged or diverged")
        return floats


class Checkpoint:
    """The directory as downloaded. Opening reads config.json and the headers of the weight files, no weights."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise UserError(f"{self.directory} is not a directory; give the folder of a Hugging Face checkpoint")
        self.config = self._json("config.json")
        if self.config is None:
            raise UserError(f"{self.directory} has no config.json; give the folder of a Hugging Face checkpoint")
        self._tensors: dict[str, tuple[SafetensorsFile, StoredTensor]] = {}
        self._files: list[SafetensorsFile] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    config: dict[str, Any]

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
            raise UserError(f"tensor {name} is {stored.dtype}, expected U8 (packed weights)")
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
        value: dict[str, Any] | None = self._json(name)
        return value

    def _find(self, name: str) -> tuple[SafetensorsFile, StoredTensor]:
        if name not in self._tensors:
            raise UserError(f"{self.directory} has no tensor {name}; is the checkpoint complete?")
        return self._tensors[name]

    def _expect(self, stored: StoredTensor, shape: tuple[int, ...]) -> None:
        if stored.shape != shape:
            raise UserError(
                f"tensor {stored.name} has the shape {list(stored.shape)}, config.json asks for {list(shape)}"
            )

    def _json(self, name: str) -> Any:
        path = self.directory / name
        try:
            value = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"cannot read {path}: {error}") from error
        if not isinstance(value, dict):
            raise UserError(f"{path} is not a JSON object")
        return value

    def _open(self) -> None:
        index = self._json(_INDEX)
        if index is not None:
            weight_map = index.get("weight_map")
            if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
                raise UserError(f"{self.directory / _INDEX} has no weight_map; download it again")
            for shard in sorted(set(weight_map.values())):
                if "/" in shard or not (self.directory / shard).is_file():
                    raise UserError(f"{_INDEX} names {shard}, which is not in {self.directory}; download it")
                self._add(shard)
            missing = next((name for name in weight_map if name not in self._tensors), None)
            if missing:
                raise UserError(f"{_INDEX} says that {weight_map[missing]} holds {missing}, but it does not")
        elif (self.directory / _SINGLE).is_file():
            self._add(_SINGLE)
        elif any(self.directory.glob("*.bin")) or any(self.directory.glob("*.pth")):
            raise UserError(
                f"{self.directory} holds PyTorch pickles; only safetensors are read: load it with transformers and "
                f"call save_pretrained(..., safe_serialization=True)"
            )
        else:
            raise UserError(f"{self.directory} has no {_SINGLE} and no {_INDEX}")

    def _add(self, name: str) -> None:
        file = SafetensorsFile(self.directory / name)
        self._files.append(file)
        for stored in file.tensors.values():
            if stored.name in self._tensors:
                raise UserError(f"tensor {stored.name} is in two files, one of them {name}")
            self._tensors[stored.name] = (file, stored)
