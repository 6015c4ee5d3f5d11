"""The first segment of weights.ptd: the index that the C reader parses (weights_index.h, byte for byte)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise

from mobile_bundle.codecs import BlobError, Format
from mobile_bundle.codecs.blob import HEADER_BYTES, VERSION, BlobHeader
from mobile_bundle.codecs.declaration import rules_of
from mobile_bundle.codecs.formats import WITHDRAWN_FORMATS
from mobile_bundle.models.limits import MOST_INDEX_BYTES, MOST_NAME_BYTES, MOST_TENSORS
from mobile_bundle.models.spec import CONFIG_BYTES

MAGIC = b"MBINDEX\0"
INDEX_VERSION = 1
_HEADER = struct.Struct("<8sIIQQIIIII12s")
_RECORD = struct.Struct("<QQQIIHHIIIII8s")
CRC_OFFSET = 48
assert _HEADER.size == 64
assert _RECORD.size == 64


class ContainerError(ValueError):
    """weights.ptd is damaged. The message says how, in one line."""


@dataclass(frozen=True)
class IndexEntry:
    """One tensor: its blob starts `offset` bytes from the start of the file. The header's scale is not in the index."""

    name: str
    offset: int
    header: BlobHeader
    crc32: int = 0

    @property
    def bytes(self) -> int:
        return self.header.blob_bytes


def name_hash(name: bytes) -> int:
    """FNV-1a, 64 bits."""
    value = 0xCBF29CE484222325
    for byte in name:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def index_bytes(names: list[str]) -> int:
    """Size of the index of tensors with these names."""
    return _HEADER.size + CONFIG_BYTES + sum(_RECORD.size + len(name.encode("utf-8")) for name in names)


def pack_index(config: bytes, entries: list[IndexEntry], file_bytes: int) -> bytes:
    """The whole segment. config: mb_model_config, 256 bytes. ContainerError beyond the limits of an index."""
    assert len(config) == CONFIG_BYTES
    if len(entries) > MOST_TENSORS:
        raise ContainerError(f"{len(entries)} tensors; a weights.ptd holds {MOST_TENSORS} at most")
    ordered = sorted(entries, key=lambda entry: (name_hash(entry.name.encode("utf-8")), entry.name.encode("utf-8")))
    records, names = bytearray(), bytearray()
    for entry in ordered:
        name = entry.name.encode("utf-8")
        if not 1 <= len(name) <= MOST_NAME_BYTES:
            raise ContainerError(f"a tensor's name has 1 to {MOST_NAME_BYTES} bytes, not {len(name)}")
        header = entry.header
        records += _RECORD.pack(
            name_hash(name),
            entry.offset,
            entry.bytes,
            len(names),
            len(name),
            header.format,
            VERSION,
            header.rows,
            header.columns,
            header.group,
            header.flags,
            entry.crc32,
            bytes(8),
        )
        names += name
    records_at = _HEADER.size + CONFIG_BYTES
    names_at = records_at + len(records)
    total = names_at + len(names)

    def head(crc: int) -> bytes:
        return _HEADER.pack(
            MAGIC,
            INDEX_VERSION,
            len(ordered),
            total,
            file_bytes,
            _HEADER.size,
            records_at,
            names_at,
            len(names),
            crc,
            bytes(12),
        )

    body = config + bytes(records) + bytes(names)
    return head(zlib.crc32(body, zlib.crc32(head(0)))) + body


def parse_index(data: bytes, file_bytes: int) -> tuple[bytes, list[IndexEntry]]:
    """(config, entries in the index's order) from the bytes of the segment and the size of the file.

    ContainerError if anything disagrees: offsets, sizes, order, overlaps, checksum.
    """
    if len(data) < _HEADER.size:
        raise ContainerError("the index is truncated")
    magic, version, count, total, whole, config_at, records_at, names_at, names_bytes, crc, rest = _HEADER.unpack_from(
        data
    )
    if magic != MAGIC:
        raise ContainerError("no index in the first segment (wrong magic)")
    if version != INDEX_VERSION:
        raise ContainerError(f"index version {version}; this version reads {INDEX_VERSION}")
    if any(rest) or count > MOST_TENSORS or total > MOST_INDEX_BYTES:
        raise ContainerError("the header of the index is damaged")
    if total > len(data):
        raise ContainerError(f"the index claims {total} bytes, its segment has {len(data)}")
    data = data[:total]
    if zlib.crc32(data[:CRC_OFFSET] + bytes(4) + data[CRC_OFFSET + 4 :]) != crc:
        raise ContainerError("the checksum of the index is wrong; the file is damaged")
    if whole != file_bytes:
        raise ContainerError(f"the file has {file_bytes} bytes, its index says {whole}; it is truncated or was changed")
    for begin, size in ((config_at, CONFIG_BYTES), (records_at, count * _RECORD.size), (names_at, names_bytes)):
        if begin < _HEADER.size or begin + size > total:
            raise ContainerError("an offset in the header of the index points outside of it")
    names = data[names_at : names_at + names_bytes]
    entries = [
        _entry(data[records_at + i * _RECORD.size :][: _RECORD.size], names, file_bytes, i) for i in range(count)
    ]
    keys = [(name_hash(entry.name.encode("utf-8")), entry.name.encode("utf-8")) for entry in entries]
    if any(a >= b for a, b in pairwise(keys)):
        raise ContainerError("the index is not sorted, or a name is in it twice")
    placed = sorted(entries, key=lambda entry: entry.offset)
    if any(a.offset + a.bytes > b.offset for a, b in pairwise(placed)):
        raise ContainerError("two tensors of the index overlap")
    if placed and placed[-1].offset + placed[-1].bytes != file_bytes:
        raise ContainerError("there are bytes behind the last tensor")
    return data[config_at : config_at + CONFIG_BYTES], entries


def _entry(record: bytes, names: bytes, file_bytes: int, number: int) -> IndexEntry:
    hashed, offset, size, name_at, name_size, format, version, rows, columns, group, flags, crc, rest = _RECORD.unpack(
        record
    )
    if name_at + name_size > len(names) or not 1 <= name_size <= MOST_NAME_BYTES:
        raise ContainerError(f"the name of tensor {number} is too long, empty or outside of the index")
    try:
        name = names[name_at : name_at + name_size].decode("utf-8")
        known = Format(format)
    except UnicodeDecodeError:
        raise ContainerError(f"the name of tensor {number} is not UTF-8") from None
    except ValueError:
        kind = "a weight format of an earlier version" if format in WITHDRAWN_FORMATS else "the unknown weight format"
        raise ContainerError(f"tensor {number} has {kind} {format}") from None
    if name_hash(name.encode("utf-8")) != hashed:
        raise ContainerError(f"the name hash of tensor {name!r} is wrong")
    if version != VERSION or any(rest):
        raise ContainerError(f"the record of tensor {name} is not of a version this reader knows")
    coded = size - HEADER_BYTES if rules_of(known).wraps else None
    if coded is not None and coded < 0:
        raise ContainerError(f"tensor {name} is smaller than a blob's header")
    header = BlobHeader(known, rows, columns, group, flags, coded_bytes=coded)
    try:
        expected = header.blob_bytes
    except BlobError as error:
        raise ContainerError(f"tensor {name}: {error}") from None
    if size != expected:
        raise ContainerError(f"tensor {name} is said to have {size} bytes, its shape and format ask for {expected}")
    if offset % HEADER_BYTES or offset + size > file_bytes:
        raise ContainerError(f"tensor {name} lies outside of the file, or not at a multiple of {HEADER_BYTES}")
    return IndexEntry(name, offset, header, crc)
