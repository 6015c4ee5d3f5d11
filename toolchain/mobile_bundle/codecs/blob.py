"""One coded tensor: a 64-byte header and its payload (runtime/include/mobile_bundle/packed_formats.h, bit by bit).

A matrix has `rows` outputs and `columns` inputs. Strips of 16 rows are interleaved; rows are padded to 16.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import IntEnum

MAGIC = b"MBWB"
VERSION = 1
HEADER_BYTES = 64
ALIGNMENT = 64
STRIP_ROWS = 16
FLAG_ASYMMETRIC = 1
FLAG_ROW_SCALES = 2
MAX_SIDE = 1 << 28

_HEADER = struct.Struct("<4sHHIIIIfIQ24s")
assert _HEADER.size == HEADER_BYTES


class Format(IntEnum):
    """mb_format. A layout never changes under its number."""

    F32 = 1
    BF16 = 2
    TERNARY2 = 3
    AFFINE2 = 4
    AFFINE3 = 5
    AFFINE4 = 6
    AFFINE8 = 7


AFFINE_BITS = {Format.AFFINE2: 2, Format.AFFINE3: 3, Format.AFFINE4: 4, Format.AFFINE8: 8}


class BlobError(ValueError):
    """The bytes are not a valid blob. The message says why, in one line."""


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `value`."""
    return (value + multiple - 1) // multiple * multiple


def payload_bytes(format: int, rows: int, columns: int, group: int = 0, flags: int = 0) -> int:
    """Bytes of the payload that a header asks for, as mb_payload_bytes. BlobError for an invalid combination."""
    try:
        kind = Format(format)
    except ValueError:
        raise BlobError(f"unknown weight format {format}; this version reads 1 to 7") from None
    if not (1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE):
        raise BlobError(f"impossible shape {rows} x {columns}")
    allowed = 0
    if kind is Format.TERNARY2:
        allowed = FLAG_ROW_SCALES
    elif kind in AFFINE_BITS:
        allowed = FLAG_ASYMMETRIC
    if flags & ~allowed:
        raise BlobError(f"flags {flags:#x} are not valid for format {kind.name}")
    if kind in AFFINE_BITS:
        if group not in (32, 64, 128):
            raise BlobError(f"group {group} is not 32, 64 or 128")
    elif group:
        raise BlobError(f"format {kind.name} has no groups, yet the header says {group}")
    if kind is Format.F32:
        return 4 * rows * columns
    if kind is Format.BF16:
        return 2 * rows * columns
    padded_rows = round_up(rows, STRIP_ROWS)
    if kind is Format.TERNARY2:
        scales = 4 * padded_rows if flags & FLAG_ROW_SCALES else 0
        return padded_rows * round_up(columns, 16) // 4 + scales
    record = 2 * (2 if flags & FLAG_ASYMMETRIC else 1) + group * AFFINE_BITS[kind] // 8  # of one row and group
    return padded_rows * (round_up(columns, group) // group) * record


@dataclass(frozen=True)
class BlobHeader:
    """mb_blob_header: what a payload is. `scale` is 1 where the format has none."""

    format: Format
    rows: int
    columns: int
    group: int = 0
    flags: int = 0
    scale: float = 1.0

    @property
    def payload_bytes(self) -> int:
        return payload_bytes(self.format, self.rows, self.columns, self.group, self.flags)

    @property
    def blob_bytes(self) -> int:
        """Header and payload."""
        return HEADER_BYTES + self.payload_bytes

    def pack(self) -> bytes:
        """The 64 bytes of the header."""
        return _HEADER.pack(
            MAGIC,
            VERSION,
            self.format,
            self.rows,
            self.columns,
            self.group,
            self.flags,
            self.scale,
            0,
            self.payload_bytes,
            bytes(24),
        )

    @staticmethod
    def parse(data: bytes | memoryview) -> BlobHeader:
        """Checks and reads the first 64 bytes of `data`. BlobError says what is wrong."""
        if len(data) < HEADER_BYTES:
            raise BlobError(f"a blob header has {HEADER_BYTES} bytes, here are {len(data)}")
        magic, version, format, rows, columns, group, flags, scale, zero, payload, rest = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise BlobError("not a weight blob (wrong magic)")
        if version != VERSION:
            raise BlobError(f"blob version {version}; this version reads {VERSION}")
        if zero or any(rest):
            raise BlobError("reserved bytes of the blob header are not zero")
        if not math.isfinite(scale):
            raise BlobError("the scale of the blob is not finite")
        expected = payload_bytes(format, rows, columns, group, flags)
        if payload != expected:
            raise BlobError(f"the header says {payload} payload bytes, its shape and format ask for {expected}")
        return BlobHeader(Format(format), rows, columns, group, flags, scale)


@dataclass(frozen=True)
class Blob:
    """A header and exactly its payload bytes."""

    header: BlobHeader
    payload: bytes | memoryview

    def to_bytes(self) -> bytes:
        """The blob as it stands in a file."""
        return self.header.pack() + bytes(self.payload)

    @staticmethod
    def parse(data: bytes | memoryview) -> Blob:
        """The blob that `data` is, no byte more or less. The payload is a view of `data`. BlobError otherwise."""
        header = BlobHeader.parse(data)
        if len(data) != header.blob_bytes:
            raise BlobError(f"the blob has {header.blob_bytes} bytes, here are {len(data)}")
        return Blob(header, memoryview(data)[HEADER_BYTES:])
