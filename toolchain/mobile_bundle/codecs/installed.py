"""What stored blobs become when a bundle is installed: format and bytes of the packed forms, and of the cache file.

Known from the headers alone, as runtime/storage and runtime/engine/install.c compute it; nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.blob import ALIGNMENT, Blob, BlobHeader, round_up
from mobile_bundle.codecs.declaration import rules_of
from mobile_bundle.codecs.formats import BlobError
from mobile_bundle.native import search

CACHE_INDEX_OFFSET = 16384
"""Where the index of weights.cache begins (weights_cache.h)."""
_INDEX_BYTES = 64 + 256  # mb_index_header, mb_model_config
_RECORD_BYTES = 64


def is_stored(header: BlobHeader) -> bool:
    """Whether the blob must be decoded, at install, before it can be computed with."""
    return rules_of(header.format).stored


def installed_header(header: BlobHeader, inner: BlobHeader | None = None) -> BlobHeader:
    """The header of the packed blob that a stored one is decoded to; a packed one's is its own.

    inner: for an entropy-coded blob, the header of the packed one, which stands at the start of the payload. The scale
    is 1 where decoding finds it (Installed.keeps_scale). BlobError if `inner` is missing or is itself a stored form."""
    rules = rules_of(header.format)
    if not rules.stored:
        return header
    if into := rules.installed:
        scale = header.scale if into.keeps_scale else 1.0
        return BlobHeader(into.format, header.rows, header.columns, into.group, header.flags, scale)
    if inner is None or is_stored(inner):
        raise BlobError("an entropy-coded blob has the header of a packed one at the start of its payload")
    return inner


def installed_bytes(header: BlobHeader, inner: BlobHeader | None = None) -> int:
    """Bytes of the packed blob, its 64-byte header included. Arguments and errors as installed_header's."""
    return installed_header(header, inner).blob_bytes


def cache_bytes(tensors: Iterable[tuple[str, int]]) -> int:
    """Size of weights.cache for stored tensors, (name, installed_bytes) in the order of weights.ptd; 0 for none."""
    listed = list(tensors)
    if not listed:
        return 0
    end = CACHE_INDEX_OFFSET + _INDEX_BYTES
    end += sum(_RECORD_BYTES + len(name.encode("utf-8")) for name, _ in listed)
    for _, size in listed:
        end = round_up(end, ALIGNMENT) + size
    return end


def decode_stored(data: bytes | NDArray[np.uint8]) -> Blob:
    """The packed blob that `mobile-run install` makes of a stored one. data: with its header.

    UserError says how they are damaged."""
    return Blob.parse(search.decode_stored(data).data)
