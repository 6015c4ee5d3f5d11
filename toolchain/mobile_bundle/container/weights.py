"""weights.ptd: a writer that computes every offset first and then streams, and a reader that trusts nothing."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mobile_bundle.codecs import BlobError
from mobile_bundle.codecs.blob import ALIGNMENT, HEADER_BYTES, Blob, BlobHeader, round_up
from mobile_bundle.codecs.declaration import rules_of
from mobile_bundle.container.flat_tensor import (
    SEGMENT_ALIGNMENT,
    FlatTensorHeader,
    Segment,
    flat_tensor_head,
    segment_base,
)
from mobile_bundle.container.index import CRC_OFFSET as INDEX_CRC_OFFSET
from mobile_bundle.container.index import ContainerError, IndexEntry, index_bytes, pack_index, parse_index
from mobile_bundle.errors import InputError
from mobile_bundle.files.disk import disk_errors, reserve
from mobile_bundle.models.limits import MOST_INDEX_BYTES

INDEX_KEY = "mobile_bundle.index"
_PART = 1 << 20


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor before it is coded: its segment, name and header (without the scale, which coding finds)."""

    segment: str
    name: str
    header: BlobHeader


class WeightsLayout:
    """Where everything goes: known from the headers alone, before any weight is read.

    head: the file up to the first segment; entries: tensors by name, still without checksums."""

    def __init__(self, tensors: list[PlannedTensor]) -> None:
        self.entries: dict[str, IndexEntry] = {}
        keys = list(dict.fromkeys(tensor.segment for tensor in tensors))
        base = segment_base([INDEX_KEY, *keys])
        segments = [Segment(INDEX_KEY, 0, index_bytes([tensor.name for tensor in tensors]))]
        for key in keys:
            begin = end = round_up(segments[-1].offset + segments[-1].size, SEGMENT_ALIGNMENT)
            for tensor in (tensor for tensor in tensors if tensor.segment == key):
                if tensor.name in self.entries:
                    raise ValueError(f"tensor {tensor.name} is planned twice")
                place = round_up(end, ALIGNMENT)
                self.entries[tensor.name] = IndexEntry(tensor.name, base + place, tensor.header)
                end = place + tensor.header.blob_bytes
            segments.append(Segment(key, begin, end - begin))
        self.head = flat_tensor_head(segments)
        assert len(self.head) == base
        self.file_bytes = base + segments[-1].offset + segments[-1].size


class WeightsWriter:
    """Writes weights.ptd at `path`, atomically: a file of that name appears only when it is whole.

    Every size is known from the headers, so blobs may be written in any order and from several threads, each into
    its own place; the bytes do not depend on that order. Use as a context manager; `finish` makes the file real.
    """

    def __init__(self, path: Path, config: bytes, tensors: list[PlannedTensor]) -> None:
        self.path = path
        self._config = config
        layout = WeightsLayout(tensors)
        self._head, self._entries, self.file_bytes = layout.head, layout.entries, layout.file_bytes
        self._crc: dict[str, int] = {}
        self._partial = path.with_name(f"{path.name}.partial")
        self._fd = -1

    def __enter__(self) -> WeightsWriter:
        with disk_errors(self._partial, self.file_bytes):
            self._fd = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                reserve(self._fd, self.file_bytes)
            except OSError:
                self._discard()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            self._discard()

    def blob(self, name: str) -> BlobWriter:
        """Where the blob of that tensor goes. Each tensor is written exactly once."""
        return BlobWriter(self._entries[name], self._put, self._close)

    def finish(self) -> None:
        """Writes the index, syncs and gives the file its name. Every blob must have been written."""
        missing = [name for name in self._entries if name not in self._crc]
        if missing:
            raise ValueError(f"{missing[0]} was planned but not written")
        entries = [replace(entry, crc32=self._crc[name]) for name, entry in self._entries.items()]
        with disk_errors(self.path, self.file_bytes):
            self._write(0, self._head)
            self._write(len(self._head), pack_index(self._config, entries, self.file_bytes))
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1
            os.replace(self._partial, self.path)

    def _put(self, offset: int, data: bytes | memoryview) -> None:
        with disk_errors(self.path, self.file_bytes):
            self._write(offset, data)

    def _close(self, name: str, crc32: int) -> None:
        self._crc[name] = crc32

    def _write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        while len(view):
            done = os.pwrite(self._fd, view, offset)
            view, offset = view[done:], offset + done

    def _discard(self) -> None:
        os.close(self._fd)
        self._fd = -1
        self._partial.unlink(missing_ok=True)


class BlobWriter:
    """Takes one blob piece by piece (a codec's `write`). put: writes bytes at an offset of the file; closed: takes the
    tensor's name and the CRC-32 of its whole blob."""

    def __init__(
        self, entry: IndexEntry, put: Callable[[int, bytes | memoryview], None], closed: Callable[[str, int], None]
    ) -> None:
        self._entry, self._put, self._closed = entry, put, closed
        self._done = 0
        self._crc = 0

    def write(self, data: bytes | memoryview) -> None:
        """Appends. UserError if the disk is full."""
        size = memoryview(data).nbytes
        if self._done + size > self._entry.bytes:
            raise ValueError(f"the blob of {self._entry.name} is longer than planned")
        self._put(self._entry.offset + self._done, data)
        self._crc = zlib.crc32(data, self._crc)
        self._done += size

    def close(self) -> int:
        """The CRC-32 of the blob, which must be complete."""
        if self._done != self._entry.bytes:
            raise ValueError(f"the blob of {self._entry.name} has {self._done} bytes, planned were {self._entry.bytes}")
        self._closed(self._entry.name, self._crc)
        return self._crc


class WeightsReader:
    """An open weights.ptd. Opening checks the headers and the index; blobs are checked when they are read.

    index_crc32: stands for the whole file, as the index holds the checksum of every tensor.
    ContainerError for a damaged file, UserError for one that cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"cannot open {self.path}: {error.strerror}") from error
        try:
            self.file_bytes = os.fstat(self._fd).st_size
            self.config, self.entries = self._open()
        except BaseException:
            self.close()
            raise
        self._by_name = {entry.name: entry for entry in self.entries}

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> WeightsReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def index_place(self) -> tuple[int, int]:
        """Where the index lies in the file: (offset, bytes)."""
        return self._index_begin, self._index_end - self._index_begin

    def entry(self, name: str) -> IndexEntry:
        """KeyError if there is no such tensor."""
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def header(self, name: str) -> BlobHeader:
        """The blob's own header, scale included, checked against the index."""
        entry = self.entry(name)
        return self._agree(entry, self._pread(entry.offset, HEADER_BYTES))

    def packed_header(self, name: str) -> BlobHeader:
        """The header of the blob that was coded where entropy coding did it, else the tensor's own (not its scale)."""
        entry = self.entry(name)
        if not rules_of(entry.header.format).wraps:
            return entry.header
        try:
            return BlobHeader.parse(self._pread(entry.offset + HEADER_BYTES, HEADER_BYTES))
        except BlobError as error:
            raise ContainerError(f"tensor {name}: {error}") from None

    def blob(self, name: str, check: bool = True) -> Blob:
        """The blob; check: compare its CRC-32 with the index."""
        entry = self.entry(name)
        data = self._pread(entry.offset, entry.bytes)
        if check and zlib.crc32(data) != entry.crc32:
            raise ContainerError(f"the checksum of tensor {name} is wrong; the file is damaged")
        self._agree(entry, data)
        try:
            return Blob.parse(data)
        except BlobError as error:
            raise ContainerError(f"tensor {name}: {error}") from None

    def blobs(self) -> Iterator[tuple[IndexEntry, Blob]]:
        """Every tensor in the order of the file, checked."""
        for entry in sorted(self.entries, key=lambda entry: entry.offset):
            yield entry, self.blob(entry.name)

    def verify(self, head: Sequence[tuple[int, int]] | None = None) -> str:
        """Reads every byte of the file once, in order: the checksum and the header of every blob, the zeros between
        them. The file's sha256, hexadecimal. ContainerError at the first damage.

        head: the (begin, end) of what lies before the index; None: FlatTensor's header and table."""
        digest = hashlib.sha256()
        end = 0
        for begin, stop in [*(head or [(0, self._table_end)]), (self._index_begin, self._index_end)]:
            self._skip_zeros(end, begin, digest)
            for part in self._parts(begin, stop):
                digest.update(part)
            end = stop
        for entry in sorted(self.entries, key=lambda entry: entry.offset):
            self._skip_zeros(end, entry.offset, digest)
            crc = 0
            for part in self._parts(entry.offset, entry.offset + entry.bytes):
                crc = zlib.crc32(part, crc)
                digest.update(part)
            if crc != entry.crc32:
                raise ContainerError(f"the checksum of tensor {entry.name} is wrong; the file is damaged")
            self.header(entry.name)
            end = entry.offset + entry.bytes
        self._skip_zeros(end, self.file_bytes, digest)
        return digest.hexdigest()

    def _parts(self, begin: int, end: int) -> Iterator[bytes]:
        """These bytes, a mebibyte at a time."""
        for at in range(begin, end, _PART):
            yield self._pread(at, min(_PART, end - at))

    def _skip_zeros(self, begin: int, end: int, digest: hashlib._Hash) -> None:
        for part in self._parts(begin, end):
            if any(part):
                raise ContainerError(f"the gap at byte {begin} is not zero; the file is damaged")
            digest.update(part)

    def _open(self) -> tuple[bytes, list[IndexEntry]]:
        try:
            flat = FlatTensorHeader.parse(self._pread(0, min(48, self.file_bytes)))
        except ContainerError:
            raise
        except ValueError as error:
            raise ContainerError(str(error)) from None
        if flat.segment_base % SEGMENT_ALIGNMENT or not 48 <= flat.segment_base <= self.file_bytes:
            raise ContainerError("the segments lie outside of the file; it is truncated or damaged")
        if flat.segment_base + flat.segment_bytes != self.file_bytes:
            raise ContainerError("the file is not as long as its header says; it is truncated or damaged")
        # the index's own size is in its header; read that first, so that a hostile size costs nothing
        head = self._pread(flat.segment_base, min(64, flat.segment_bytes))
        size = int.from_bytes(head[16:24], "little") if len(head) == 64 else 0
        if not 64 <= size <= min(flat.segment_bytes, MOST_INDEX_BYTES):
            raise ContainerError("the index is truncated or damaged")
        config, entries = parse_index(self._pread(flat.segment_base, size), self.file_bytes)
        self.index_crc32 = int.from_bytes(head[INDEX_CRC_OFFSET : INDEX_CRC_OFFSET + 4], "little")
        self._index_begin, self._index_end = flat.segment_base, flat.segment_base + size
        self._table_end = flat.flatbuffer_offset + flat.flatbuffer_bytes
        if self._table_end > flat.segment_base:
            raise ContainerError("the FlatTensor table lies outside of the file; it is truncated or damaged")
        for entry in entries:
            if entry.offset < self._index_end:
                raise ContainerError(f"tensor {entry.name} overlaps the index")
        return config, entries

    def _agree(self, entry: IndexEntry, data: bytes) -> BlobHeader:
        try:
            header = BlobHeader.parse(data)
        except BlobError as error:
            raise ContainerError(f"tensor {entry.name}: {error}") from None
        if replace(header, scale=1.0) != entry.header:
            raise ContainerError(f"the header of tensor {entry.name} is not what the index says")
        return header

    def _pread(self, offset: int, count: int) -> bytes:
        parts = []
        while count > 0:
            part = os.pread(self._fd, count, offset)
            if not part:
                raise ContainerError("the file ends too early; it is truncated")
            parts.append(part)
            offset, count = offset + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
