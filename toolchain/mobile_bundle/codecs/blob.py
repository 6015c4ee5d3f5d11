"""One coded tensor: a 64-byte header and its payload (runtime/include/mobile_bundle/packed_formats.h, bit by bit).

A matrix has `rows` outputs and `columns` inputs. Strips of 16 rows are interleaved; rows are padded to 16.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from mobile_bundle.codecs.declaration import rules_of
from mobile_bundle.codecs.formats import BlobError, Format

MAGIC = b"MBWB"
VERSION = 1
HEADER_BYTES = 64
ALIGNMENT = 64
STRIP_ROWS = 16
FLAG_ASYMMETRIC = 1
FLAG_ROW_SCALES = 2
FLAG_SHARED_CODEBOOK = 4
FLAG_E4M4 = 8
MAX_SIDE = 1 << 28
MAX_CODED_BYTES = 1 << 40

_HEADER = struct.Struct("<4sHHIIIIfIQ24s")
assert _HEADER.size == HEADER_BYTES


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `value`."""
    return (value + multiple - 1) // multiple * multiple


def payload_bytes(format: int, rows: int, columns: int, group: int = 0, flags: int = 0) -> int:
    """Bytes of the payload that a header asks for, as mb_payload_bytes: the format's own rule (declaration.py).

    BlobError for an invalid combination, and for an entropy-coded blob, whose size depends on the weights."""
    rules = rules_of(format)
    if not _is_shape(rows, columns):
        raise BlobError(f"impossible shape {rows} x {columns}")
    if flags & ~rules.flags:
        raise BlobError(f"flags {flags:#x} are not valid for format {rules.format.name}")
    if group not in rules.groups:
        if rules.groups == (0,):
            raise BlobError(f"format {rules.format.name} has no groups, yet the header says {group}")
        raise BlobError(f"group {group} is not one of {', '.join(map(str, rules.groups))}")
    return rules.payload_bytes(rows, columns, group, flags)


def _is_shape(rows: int, columns: int) -> bool:
    return 1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE


@dataclass(frozen=True)
class BlobHeader:
    """mb_blob_header: what a payload is. `scale` is 1 where the format has none.

    coded_bytes: payload bytes of an entropy-coded blob; None for every other, whose size follows from its shape."""

    format: Format
    rows: int
    columns: int
    group: int = 0
    flags: int = 0
    scale: float = 1.0
    coded_bytes: int | None = None

    @property
    def payload_bytes(self) -> int:
        if self.coded_bytes is not None:
            return self.coded_bytes
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
        rules = rules_of(format)
        if rules.wraps:
            if not _is_shape(rows, columns) or group or payload > MAX_CODED_BYTES:
                raise BlobError("the header of an entropy-coded blob is not possible")
            return BlobHeader(rules.format, rows, columns, group, flags, scale, payload)
        expected = payload_bytes(format, rows, columns, group, flags)
        if payload != expected:
            raise BlobError(f"the header says {payload} payload bytes, its shape and format ask for {expected}")
        return BlobHeader(rules.format, rows, columns, group, flags, scale)


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
