"""Blobs that are entropy-coded by hand, each by the method that is wanted, and files of them."""

from __future__ import annotations

import lzma
import zlib
from pathlib import Path

import numpy as np
from mobile_bundle.codecs import Blob, codec_by_name, codec_names
from mobile_bundle.codecs.blob import BlobHeader, Format
from mobile_bundle.native.entropy import rans_encode
from numpy.typing import NDArray

METHODS = ("stored", "rans", "deflate", "lzma")


def wrap(packed: Blob, method: str, body: bytes, properties: int = 0) -> Blob:
    """An entropy-coded blob as entropy.h says, by hand."""
    payload = packed.header.pack() + bytes([METHODS.index(method), properties]) + bytes(6) + body
    return Blob(
        BlobHeader(Format.ENTROPY, packed.header.rows, packed.header.columns, coded_bytes=len(payload)), payload
    )


def as_array(blob: Blob) -> NDArray[np.uint8]:
    return np.frombuffer(blob.to_bytes(), np.uint8)


def by_rans(packed: Blob) -> Blob:
    return wrap(packed, "rans", rans_encode(as_array(packed)))


def by_deflate(packed: Blob) -> Blob:
    coder = zlib.compressobj(6, zlib.DEFLATED, -15)
    return wrap(packed, "deflate", coder.compress(packed.payload) + coder.flush())


def by_lzma(packed: Blob, lc: int = 3, lp: int = 0, pb: int = 2) -> Blob:
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 18, "lc": lc, "lp": lp, "pb": pb}]
    body = lzma.compress(packed.payload, lzma.FORMAT_RAW, filters=filters)
    return wrap(packed, "lzma", body, lc + 9 * (lp + 5 * pb))


ENTROPY_CODED = ("raw", "affine-2bit", "affine-4bit", "affine-8bit", "bitnet", "bitnet-1.25bit", "vptq-2bit")


def write_stored_blobs(directory: Path) -> list[Path]:
    """A file for a small blob of every codec that stores, and of several packed forms by every method of the entropy
    coder: what fuzzing starts from."""
    weight = np.random.default_rng(0).standard_normal((33, 100), np.float32)
    names = [name for name in codec_names() if codec_by_name(name).format >= Format.BASE3]
    blobs = {name: codec_by_name(name).encode(weight).to_bytes() for name in names}
    for name in ENTROPY_CODED:
        packed = codec_by_name(name).encode(weight)
        blobs |= {f"{name}-{way.__name__}": way(packed).to_bytes() for way in (by_rans, by_deflate, by_lzma)}
    out = []
    for name, blob in blobs.items():
        out.append(directory / f"{name}.blob")
        out[-1].write_bytes(blob)
    return out
