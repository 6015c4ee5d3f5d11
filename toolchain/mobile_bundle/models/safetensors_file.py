"""One safetensors file, read by byte ranges.

Format (github.com/huggingface/safetensors): uint64 n, n bytes of JSON {name: {dtype, shape, data_offsets}}, then the
data. Parsed here so that a tensor is read with pread a few rows at a time: nothing is mapped and nothing is held.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobile_bundle.errors import InputError, UserError
from mobile_bundle.files.git_lfs import refuse_pointer
from mobile_bundle.files.inputs import parse_json
from mobile_bundle.models.ranged_file import RangedFile

_MAX_HEADER = 100 << 20
_WIDTH = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies. offset: bytes from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


class SafetensorsFile(RangedFile):
    """An open file and its checked header. tensors: by name. UserError where it is damaged."""

    def __init__(self, path: Path) -> None:
        self.tensors: dict[str, StoredTensor] = {}
        try:
            super().__init__(path)
        except FileNotFoundError as error:
            raise InputError(f"cannot open {path}: {error.strerror}") from error

    def digest(self, tensor: StoredTensor) -> str:
        """SHA-256, hexadecimal, of a tensor's dtype, shape and bytes. UserError if they cannot be read."""
        return self._digest(tensor.dtype, tensor.shape, tensor.offset, tensor.bytes)

    def _parse(self) -> None:
        size = self.size
        refuse_pointer(self.path, self.read(0, min(size, 64)))
        if size < 8:
            raise InputError(f"{self.path} is truncated: {size} bytes", "download it again")
        length = int.from_bytes(self.read(0, 8), "little")
        if length > _MAX_HEADER:
            raise InputError(
                f"{self.path} is not a safetensors file (its header claims {length} bytes)", "download it again"
            )
        if 8 + length > size:
            raise InputError(f"{self.path} is truncated inside its header", "download it again")
        try:
            header = parse_json(self.read(8, length), "its header")
        except UserError as error:
            raise InputError(f"{self.path} is damaged: {error}", "download it again") from error
        if not isinstance(header, dict):
            raise InputError(f"{self.path} is damaged: its header is not a JSON object", "download it again")
        data = 8 + length
        self.tensors = {
            name: self._entry(name, entry, data, size) for name, entry in header.items() if name != "__metadata__"
        }
        self._check_order(self.tensors, data, size)

    def _check_order(self, tensors: dict[str, StoredTensor], data: int, size: int) -> None:
        """The format wants tensors that follow each other without gaps, from the header to the end of the file."""
        at = data
        for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.bytes)):
            if tensor.offset != at:
                what = "lies over the one before it" if tensor.offset < at else "does not follow the one before it"
                raise InputError(f"{self.path} is damaged: tensor {tensor.name} {what}", "download it again")
            at += tensor.bytes
        if at != size:
            raise InputError(
                f"{self.path} is damaged: {size - at} bytes do not belong to any tensor", "download it again"
            )

    def _entry(self, name: str, entry: Any, data: int, size: int) -> StoredTensor:
        try:
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            whole = [begin, end, *shape]
            numbers = len(shape) <= 8 and all(type(v) is int and 0 <= v < 1 << 63 for v in whole)
            valid = isinstance(dtype, str) and numbers and begin <= end
        except (KeyError, TypeError, ValueError):
            valid = False
        if not valid:
            raise InputError(f"{self.path} is damaged: the entry of tensor {name} is invalid", "download it again")
        if data + end > size:
            raise InputError(
                f"{self.path} is truncated: tensor {name} ends at byte {data + end}, the file at {size}; "
                f"download it again"
            )
        width = _WIDTH.get(dtype)
        if width is not None and math.prod(shape) * width != end - begin:
            raise InputError(f"{self.path} is damaged: tensor {name} of shape {list(shape)} has {end - begin} bytes")
        return StoredTensor(name, dtype, shape, data + begin, end - begin)
