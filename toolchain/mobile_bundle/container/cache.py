"""Checks weights.cache: what `mobile-run install` decodes from a bundle's stored tensors (weights_cache.h).

It belongs to the device, not to the bundle, so the manifest does not name it."""

from __future__ import annotations

import struct
from pathlib import Path

from mobile_bundle.codecs.installed import is_stored
from mobile_bundle.container.index import ContainerError, IndexEntry
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.errors import InputError

NAME = "weights.cache"
PARTIAL = f".{NAME}.partial-"
"""How the name of an unfinished cache begins: what an installation that runs is writing, or a killed one left."""
_IDENTITY = struct.Struct("<8sIIQ40s")
_IDENTITY_OFFSET = 64
_HEADER_END = 48
_MAGIC = b"MBCACHE\0"
_VERSION = 1
_SEGMENT_BASE_OFFSET = 32
_CRC_IN_INDEX = 48


def verify_cache(path: Path, weights: WeightsReader) -> None:
    """Reads every byte of a cache. UserError if it is damaged or does not belong to `weights`."""
    try:
        with WeightsReader(path) as cache:
            if _read(path, _IDENTITY_OFFSET, _IDENTITY.size) != _identity(weights):
                raise ContainerError("it was made from a different weights.ptd, or by another version")
            stored = {entry.name: (entry.header.rows, entry.header.columns) for entry in _stored(weights)}
            found = {entry.name: (entry.header.rows, entry.header.columns) for entry in cache.entries}
            if found != stored or any(is_stored(entry.header) for entry in cache.entries):
                raise ContainerError("it does not hold the stored tensors of the bundle")
            cache.verify(head=[(0, _HEADER_END), (_IDENTITY_OFFSET, _IDENTITY_OFFSET + _IDENTITY.size)])
    except ContainerError as error:
        raise InputError(f"{path}: {error}", "run `mobile-run install` to make it again, or remove it") from error


def _stored(weights: WeightsReader) -> list[IndexEntry]:
    return [entry for entry in weights.entries if is_stored(entry.header)]


def _identity(weights: WeightsReader) -> bytes:
    base = int.from_bytes(_read(weights.path, _SEGMENT_BASE_OFFSET, 8), "little")
    crc = int.from_bytes(_read(weights.path, base + _CRC_IN_INDEX, 4), "little")
    return _IDENTITY.pack(_MAGIC, _VERSION, crc, weights.file_bytes, bytes(40))


def _read(path: Path, offset: int, count: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(count)
