"""A GGUF file as a checkpoint: transformers' names, shapes and row order, dequantised a few rows at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.kept import Codes
from mobile_bundle.errors import InputError, UnsupportedError
from mobile_bundle.models.gguf.config import config_json, generation_json
from mobile_bundle.models.gguf.container import GgufFile, GgufTensor
from mobile_bundle.models.gguf.families import FAMILIES
from mobile_bundle.models.gguf.kept import has_codes, keep_codec, read_codes
from mobile_bundle.models.gguf.library import library
from mobile_bundle.models.gguf.metadata import Metadata
from mobile_bundle.models.gguf.names import (
    ROPE_FACTORS,
    SHORT_FACTORS,
    TABLES,
    is_permuted,
    original_rows,
    transformers_name,
)

Floats = NDArray[np.float32]
_VECTOR_TYPES = ("F32", "F16", "BF16")


class GgufMatrix:
    """A tensor as a matrix source (codecs/source.py); a vector is one row. Values are checked: UserError names a tensor
    with NaN or infinities. head_dim: of a tensor whose rows llama.cpp interleaved per head, else 0. first, rows: which
    of the tensor's rows it is, 0 rows for all."""

    def __init__(self, file: GgufFile, stored: GgufTensor, head_dim: int, first: int = 0, rows: int = 0) -> None:
        self.rows = rows or (stored.shape[0] if len(stored.shape) == 2 else 1)
        self.columns = stored.shape[-1]
        self._file, self._stored, self._head_dim, self._first = file, stored, head_dim, first

    def chunks(self, chunk_rows: int, first: int = 0, last: int | None = None) -> Iterator[Floats]:
        """float32 (n, columns), n = chunk_rows but for the last; of rows first..last - 1 (None: to the end)."""
        last = self.rows if last is None else last
        for begin in range(first, last, chunk_rows):
            floats = dequantise(self._bytes(begin, min(begin + chunk_rows, last)), self._stored.type)
            if len(self._stored.shape) == 1 and self._head_dim:
                floats = floats[:, original_rows(0, self.columns, self._head_dim)]
            if not np.isfinite(floats).all():
                raise InputError(
                    f"tensor {self._stored.name} holds NaN or infinite values; the file is damaged, or the model"
                )
            yield np.ascontiguousarray(floats)

    def _bytes(self, begin: int, end: int) -> NDArray[np.uint8]:
        """Rows begin..end-1 as they are stored, uint8 (n, row_bytes)."""
        stored = self._stored
        if len(stored.shape) == 1 or not self._head_dim:
            return self._read(self._first + begin, self._first + end)
        first = begin - begin % self._head_dim
        last = min(end + -end % self._head_dim, self.rows)
        return self._read(first, last)[original_rows(begin, end, self._head_dim) - first]

    def _read(self, begin: int, end: int) -> NDArray[np.uint8]:
        size = self._stored.row_bytes
        data = self._file.read(self._stored.offset + begin * size, (end - begin) * size)
        return np.frombuffer(data, np.uint8).reshape(end - begin, size)


class CodedMatrix(GgufMatrix):
    """A matrix of a type whose codes a packed format holds (codecs/kept.py)."""

    def codes(self, chunk_rows: int) -> Iterator[Codes]:
        """The same rows as `chunks`, as codes and scales."""
        block_bytes = block_size(self._stored.type)[1]
        for begin in range(0, self.rows, chunk_rows):
            rows = self._bytes(begin, min(begin + chunk_rows, self.rows))
            yield read_codes(rows, self._stored.type, block_bytes)


class GgufCheckpoint:
    """An open GGUF file that looks like an open checkpoint directory. Opening reads its header and rope_freqs.weight.

    config: as config.json would be. UserError for a file that is damaged, or that is no model of a known family."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = GgufFile(path)
        try:
            self._metadata = Metadata(self._file)
            self._architecture = self._metadata.text("general.architecture") or ""
            self.config = config_json(self._file, self._rope_factors(ROPE_FACTORS), self._rope_factors(SHORT_FACTORS))
            self._family = FAMILIES[self._architecture]
            self._tensors = self._named()
        except BaseException:
            self.close()
            raise

    config: dict[str, Any]

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> GgufCheckpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """general.name, or the file's name without its ending."""
        return self._metadata.text("general.name") or self.path.stem

    @property
    def licence(self) -> str | None:
        """general.license, or general.license.name where that says "other"."""
        value = self._metadata.text("general.license")
        return self._metadata.text("general.license.name") or value if value == "other" else value

    def type(self, name: str) -> str:
        """The GGML type of the tensor of that transformers name."""
        return self._find(name).type

    def keep(self, name: str) -> str:
        """The codec that the recipe keep stores the matrix with, "" for the default recipe's."""
        return keep_codec(self.type(name))

    @property
    def files(self) -> list[Path]:
        """The weight files that are read."""
        return [self.path]

    def digest(self, name: str) -> str:
        """SHA-256 of a tensor's type, shape and bytes. UserError if it is missing or cannot be read."""
        return self._file.digest(self._find(name))

    def check_unchanged(self) -> None:
        """UserError if the file is not what it was when it was opened."""
        self._file.check_unchanged()

    def json(self, name: str) -> dict[str, Any] | None:
        """What generation_config.json would be; None for every other file."""
        return generation_json(self._file) if name == "generation_config.json" else None

    def names(self) -> list[str]:
        """transformers' names of all tensors."""
        return list(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str, shape: tuple[int, ...], first: int = 0, rows: int = 0) -> GgufMatrix:
        """The tensor of that transformers name, or `rows` of its rows from the first on. UserError if it is missing or
        of another shape."""
        stored = self._find(name)
        if stored.shape != shape:
            raise InputError(
                f"{self.path}: tensor {stored.name} has the shape {list(stored.shape)}, its metadata asks for "
                f"{list(shape)}"
            )
        if len(shape) == 1 and stored.type not in _VECTOR_TYPES:
            raise InputError(f"{self.path}: tensor {stored.name} is {stored.type}; vectors must be F32, F16 or BF16")
        dequantise(np.zeros((1, stored.row_bytes), np.uint8), stored.type)  # refuses an unknown type now, not midway
        head_dim = self.config["head_dim"] if is_permuted(self._family, name) else 0
        kind = CodedMatrix if has_codes(stored.type) else GgufMatrix
        return kind(self._file, stored, head_dim, first, rows)

    def _find(self, name: str) -> GgufTensor:
        if name not in self._tensors:
            raise InputError(f"{self.path} has no tensor for {name}; is it a whole model?")
        return self._tensors[name]

    def _named(self) -> dict[str, GgufTensor]:
        """By transformers' names. A tensor that nobody here knows would be one that changes the result: refused."""
        found = {}
        for stored in self._file.tensors.values():
            if stored.name == ROPE_FACTORS or (stored.name in TABLES and self._family.partial):
                continue
            name = transformers_name(stored.name, self._family)
            if name is None:
                raise UnsupportedError(
                    f"{self.path}: a model with the tensor {stored.name} is not supported ({self._architecture})"
                )
            found[name] = stored
        return found

    def _rope_factors(self, name: str) -> Floats | None:
        stored = self._file.tensors.get(name)
        if stored is None:
            return None
        if len(stored.shape) != 1 or stored.type != "F32" or stored.bytes > 1 << 16:
            raise InputError(f"{self.path}: the tensor {name} is no vector of rotary factors")
        return np.frombuffer(self._file.read(stored.offset, stored.bytes), "<f4").astype(np.float32)


def block_size(type_: str) -> tuple[int, int]:
    """(values, bytes) of a block of a GGML type."""
    constants = library("constants")
    values, size = constants.GGML_QUANT_SIZES[constants.GGMLQuantizationType[type_]]
    return int(values), int(size)


def dequantise(rows: NDArray[np.uint8], type_: str) -> Floats:
    """rows: uint8 (n, bytes of a row) of that GGML type; float32 (n, columns), by the gguf package, but for Q1_0, which
    it cannot do yet. UserError for a type that it does not know."""
    if type_ == "Q1_0":
        found = read_codes(rows, type_, block_size(type_)[1])
        values = found.codes.reshape(*found.d.shape, -1) * found.d[:, :, None].astype(np.float32)
        return values.reshape(len(rows), -1)
    quantisation = library("constants").GGMLQuantizationType[type_]
    try:
        floats: Floats = library("quants").dequantize(rows, quantisation)
    except NotImplementedError as error:
        raise InputError(f"weights of GGML type {type_} cannot be read ({error})") from error
    return floats
