"""The head of an ExecuTorch FlatTensor file: a small flatbuffer that names segments, with a fixed header inside.

Written by hand-made builder calls because ExecuTorch's own writer holds every segment in RAM. Schema: flat_tensor.fbs
of ExecuTorch 1.5 (extension/flat_tensor/serialize): FlatTensor {version: uint32, segments: [DataSegment], named_data:
[NamedData]}, DataSegment {offset: uint64, size: uint64}, NamedData {key: string, segment_index: uint32, tensor_layout}.
File: root offset (4), "FT01" (4), then at byte 8 the fixed header: "FH01", uint32 length 40, uint64 flatbuffer offset
48, flatbuffer size, segment base, segment data size; zeros to byte 56; the rest of the flatbuffer; zeros to the base.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import flatbuffers  # type: ignore[import-untyped]

IDENTIFIER = b"FT01"
MAGIC = b"FH01"
SEGMENT_ALIGNMENT = 16384
HEADER_OFFSET = 8
_HEADER = struct.Struct("<4sIQQQQ")
_INSERTED = 48  # the header, padded to 16


@dataclass(frozen=True)
class Segment:
    """A named run of bytes. offset: from the segment base."""

    key: str
    offset: int
    size: int


@dataclass(frozen=True)
class FlatTensorHeader:
    """The fixed header, in bytes from the start of the file (segment_bytes: of all segments with the gaps between)."""

    flatbuffer_offset: int
    flatbuffer_bytes: int
    segment_base: int
    segment_bytes: int

    @staticmethod
    def parse(data: bytes) -> FlatTensorHeader:
        """From the first 48 bytes of a file. ValueError if they are not FlatTensor's."""
        if len(data) < HEADER_OFFSET + _HEADER.size or data[4:8] != IDENTIFIER:
            raise ValueError("not a weights.ptd file (no FlatTensor identifier)")
        magic, length, *rest = _HEADER.unpack_from(data, HEADER_OFFSET)
        if magic != MAGIC or length < _HEADER.size:
            raise ValueError("not a weights.ptd file (damaged FlatTensor header)")
        return FlatTensorHeader(*rest)


def segment_base(keys: list[str]) -> int:
    """Where the first segment begins: it depends on the keys alone."""
    return len(flat_tensor_head([Segment(key, 0, 0) for key in keys]))


def flat_tensor_head(segments: list[Segment]) -> bytes:
    """The file up to the first segment: a multiple of 16 KiB. Its length does not depend on offsets and sizes."""
    buffer = _flatbuffer(segments)
    end = max((segment.offset + segment.size for segment in segments), default=0)
    base = -(-(len(buffer) + _INSERTED) // SEGMENT_ALIGNMENT) * SEGMENT_ALIGNMENT
    root = int.from_bytes(buffer[:4], "little") + _INSERTED
    header = _HEADER.pack(MAGIC, _HEADER.size, _INSERTED, len(buffer), base, end)
    head = root.to_bytes(4, "little") + IDENTIFIER + header.ljust(_INSERTED, b"\0") + buffer[8:]
    return head.ljust(base, b"\0")


def _flatbuffer(segments: list[Segment]) -> bytes:
    """The FlatTensor table. Zeros are written out, so that every table has all its fields and the size is fixed."""
    builder = flatbuffers.Builder(1024)
    builder.ForceDefaults(True)
    tables = []
    for segment in segments:
        builder.StartObject(2)
        builder.PrependUint64Slot(0, segment.offset, 0)
        builder.PrependUint64Slot(1, segment.size, 0)
        tables.append(builder.EndObject())
    named = []
    for index, segment in enumerate(segments):
        key = builder.CreateString(segment.key)
        builder.StartObject(3)
        builder.PrependUOffsetTRelativeSlot(0, key, 0)
        builder.PrependUint32Slot(1, index, 0)
        named.append(builder.EndObject())
    vectors = []
    for offsets in (tables, named):
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        vectors.append(builder.EndVector())
    builder.StartObject(3)
    builder.PrependUint32Slot(0, 0, 0)
    builder.PrependUOffsetTRelativeSlot(1, vectors[0], 0)
    builder.PrependUOffsetTRelativeSlot(2, vectors[1], 0)
    builder.Finish(builder.EndObject(), file_identifier=IDENTIFIER)
    return bytes(builder.Output())
