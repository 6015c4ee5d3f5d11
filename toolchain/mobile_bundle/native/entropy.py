"""The lossless stage's rANS of the C library: its encoder, and its decoders by name."""

from __future__ import annotations

import ctypes
import functools

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import RuntimeFailure
from mobile_bundle.native.library import check, declared

_ENTROPY_SLACK = 4096
"""Bytes beyond the packed blob's own size that a coded body may take: enough for the states of tiny blobs."""


@functools.cache
def _library() -> ctypes.CDLL:
    pointer, u64 = ctypes.c_void_p, ctypes.c_uint64
    return declared({
        "mb_rans_encode": [pointer, u64, pointer, u64, ctypes.POINTER(u64)],
        "mb_entropy_decode_with": [ctypes.c_char_p, pointer, u64, pointer, u64, ctypes.POINTER(u64)],
    })  # fmt: skip


def rans_encode(blob: NDArray[np.uint8]) -> bytes:
    """The rANS body (runtime/storage/entropy.h) of a packed blob, its header included: uint8 (bytes,).

    UserError where it is not a packed blob, or memory is out."""
    blob = np.ascontiguousarray(blob, np.uint8)
    out = np.empty(len(blob) + _ENTROPY_SLACK, np.uint8)
    written = ctypes.c_uint64()
    check(_library().mb_rans_encode(blob.ctypes.data, len(blob), out.ctypes.data, len(out), ctypes.byref(written)))
    if written.value == 0:
        raise RuntimeFailure("the rANS body of a blob is larger than the blob itself", "report this as a bug")
    return out[: written.value].tobytes()


def decode_with(decoder: str, blob: NDArray[np.uint8], capacity: int) -> NDArray[np.uint8]:
    """An entropy-coded blob to the packed blob by the rANS decoder `decoder`, "scalar" or "avx2": uint8 (bytes,).

    capacity: bytes of the packed blob, at most. UserError for a damaged blob, too little room, or a decoder that this
    processor lacks."""
    blob = np.ascontiguousarray(blob, np.uint8)
    out = np.empty(capacity, np.uint8)
    written = ctypes.c_uint64()
    check(
        _library().mb_entropy_decode_with(
            decoder.encode(), blob.ctypes.data, len(blob), out.ctypes.data, len(out), ctypes.byref(written)
        )
    )
    return out[: written.value]
