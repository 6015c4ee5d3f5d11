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
FLAG_SHARED_CODEBOOK = 4
VECTOR_SLACK = 16
MAX_SIDE = 1 << 28
MAX_CODED_BYTES = 1 << 40

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
    SPARSE_TERNARY = 8
    VECTOR = 9
    INT8 = 10
    AFFINE5 = 11
    AFFINE6 = 12
    SIGN1 = 13
    BASE3 = 32
    SEEDLM = 33
    LATTICE = 34
    ENTROPY = 35


FIRST_STORED_FORMAT = 32
"""From here on a blob is a stored form: decoded once, at install, into a packed one."""
LATTICE_HEAD = 64
SPARSE_STRIP_ROWS = 32
SPARSE_TILE = 1600
SPARSE_HEAD = 4 * SPARSE_STRIP_ROWS
SPARSE_BLOCK = 160
AFFINE_BITS = {
    Format.AFFINE2: 2,
    Format.AFFINE3: 3,
    Format.AFFINE4: 4,
    Format.AFFINE5: 5,
    Format.AFFINE6: 6,
    Format.AFFINE8: 8,
}


class BlobError(ValueError):
    """The bytes are not a valid blob. The message says why, in one line."""


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `value`."""
    return (value + multiple - 1) // multiple * multiple


@dataclass(frozen=True)
class VectorLayout:
    """What the flags of a vector blob say, and where the sections of its payload are (packed_formats.h).

    length 4..12; index_bits 8..16; residual_bits 0 or 8..16; outliers: columns with an int8 correction of their own;
    shared: the codebooks are another tensor. Offsets count from the start of the payload."""

    length: int
    index_bits: int
    residual_bits: int = 0
    outliers: int = 0
    shared: bool = False

    @staticmethod
    def from_flags(flags: int) -> VectorLayout:
        """BlobError if they are not valid."""
        layout = VectorLayout(flags >> 4 & 15, flags >> 8 & 31, flags >> 13 & 31, flags >> 18, bool(flags & 4))
        if flags & 11 or not layout.valid:
            raise BlobError(f"flags {flags:#x} are not valid for format VECTOR")
        return layout

    @property
    def valid(self) -> bool:
        bits = self.residual_bits
        return 4 <= self.length <= 12 and 8 <= self.index_bits <= 16 and (bits == 0 or 8 <= bits <= 16)

    @property
    def flags(self) -> int:
        return (
            FLAG_SHARED_CODEBOOK * self.shared
            | self.length << 4
            | self.index_bits << 8
            | self.residual_bits << 13
            | self.outliers << 18
        )

    @property
    def group(self) -> int:
        """Columns that share a scale of activations; 0: all."""
        return 128 if self.length in (4, 8) else 0

    @property
    def stride(self) -> int:
        """Bytes of one codebook entry."""
        return 4 if self.length == 4 else 8 if self.length <= 8 else 16

    @property
    def entries(self) -> int:
        """Entries of both codebooks."""
        return (1 << self.index_bits) + (1 << self.residual_bits if self.residual_bits else 0)

    def row_bytes(self, columns: int, bits: int) -> int:
        """Bytes of one row's indices of `bits` bits."""
        return (-(-columns // self.length) * bits + 7) // 8

    def sections(self, rows: int, columns: int) -> dict[str, int]:
        """Offsets of row_scales, outlier_columns, outlier_values, indices, residual_indices, and of the end."""
        at = {"row_scales": round_up(0 if self.shared else self.entries * self.stride, 64)}
        at["outlier_columns"] = round_up(at["row_scales"] + 2 * rows, 64)
        at["outlier_values"] = at["outlier_columns"] + 4 * self.outliers
        at["indices"] = round_up(at["outlier_values"] + self.outliers * rows, 64)
        end = at["indices"] + rows * self.row_bytes(columns, self.index_bits)
        at["residual_indices"] = end
        if self.residual_bits:
            at["residual_indices"] = round_up(end, 64)
            end = at["residual_indices"] + rows * self.row_bytes(columns, self.residual_bits)
        at["end"] = end + VECTOR_SLACK
        return at


def payload_bytes(format: int, rows: int, columns: int, group: int = 0, flags: int = 0) -> int:
    """Bytes of the payload that a header asks for, as mb_payload_bytes. BlobError for an invalid combination.

    An entropy-coded blob has none of its own: BlobError."""
    try:
        kind = Format(format)
    except ValueError:
        raise BlobError(f"unknown weight format {format}; made by a newer version?") from None
    if not (1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE):
        raise BlobError(f"impossible shape {rows} x {columns}")
    if kind is Format.VECTOR:
        layout = VectorLayout.from_flags(flags)
        if group != layout.group or layout.outliers > columns:
            raise BlobError(f"group {group} and {layout.outliers} outlier columns are not valid for this vector blob")
        return layout.sections(rows, columns)["end"]
    if kind is Format.SEEDLM:
        if group not in (8, 12) or flags:
            raise BlobError(f"a SeedLM blob has blocks of 8 or 12 and no flags, not {group} and {flags:#x}")
        blocks = rows * -(-columns // group)
        return 2 * blocks + (blocks * (4 if group == 8 else 5) + 1) // 2
    allowed = 0
    if kind in (Format.TERNARY2, Format.SPARSE_TERNARY, Format.BASE3):
        allowed = FLAG_ROW_SCALES
    elif kind in AFFINE_BITS:
        allowed = FLAG_ASYMMETRIC
    if flags & ~allowed:
        raise BlobError(f"flags {flags:#x} are not valid for format {kind.name}")
    if kind in AFFINE_BITS or kind is Format.SIGN1:
        if group not in (32, 64, 128):
            raise BlobError(f"group {group} is not 32, 64 or 128")
    elif group:
        raise BlobError(f"format {kind.name} has no groups, yet the header says {group}")
    if kind is Format.F32:
        return 4 * rows * columns
    if kind is Format.BF16:
        return 2 * rows * columns
    if kind is Format.INT8:
        return rows * columns
    if kind is Format.ENTROPY:
        raise BlobError("the size of an entropy-coded blob does not follow from its shape")
    if kind is Format.LATTICE:
        return LATTICE_HEAD + (rows * ((columns + 1) // 2) * 13 + 7) // 8
    if kind is Format.BASE3:
        codes = rows * -(-columns // 5)
        return round_up(codes, 4) + 4 * rows if flags & FLAG_ROW_SCALES else codes
    if kind is Format.SPARSE_TERNARY:
        strips = round_up(rows, SPARSE_STRIP_ROWS) // SPARSE_STRIP_ROWS
        blocks = round_up(columns, 32) // 32
        tiles = -(-blocks * 32 // SPARSE_TILE)
        scales = 4 * SPARSE_STRIP_ROWS * strips if flags & FLAG_ROW_SCALES else 0
        return strips * (tiles * SPARSE_HEAD + blocks * SPARSE_BLOCK) + scales
    padded_rows = round_up(rows, STRIP_ROWS)
    if kind is Format.TERNARY2:
        scales = 4 * padded_rows if flags & FLAG_ROW_SCALES else 0
        return padded_rows * round_up(columns, 16) // 4 + scales
    bits = 1 if kind is Format.SIGN1 else AFFINE_BITS[kind]
    record = 2 * (2 if flags & FLAG_ASYMMETRIC else 1) + group * bits // 8  # of one row and group
    return padded_rows * (round_up(columns, group) // group) * record


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
        if format == Format.ENTROPY:
            if not (1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE) or group or payload > MAX_CODED_BYTES:
                raise BlobError("the header of an entropy-coded blob is not possible")
            return BlobHeader(Format.ENTROPY, rows, columns, group, flags, scale, payload)
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
