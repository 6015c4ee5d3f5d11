"""The lossless stage: a packed blob of another codec, compressed by rANS, deflate or LZMA, whichever is smallest.

The layout is in runtime/storage/entropy.h, bit by bit: the packed blob's header, a method and a body. rANS divides the
payload into streams (scales apart from codes: runtime/storage/streams.h) with static models of 12-bit probabilities,
one for the tensor or one per group of rows, whichever is smaller. It codes 32 interleaved states: J. Duda, asymmetric
numeral systems (arXiv:1311.2540, section 2); F. Giesen, interleaved entropy coders (arXiv:1402.3392, section 3).
Where nothing makes it smaller, the packed blob is kept.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.blob import HEADER_BYTES, Blob, BlobHeader
from mobile_bundle.codecs.codec import Encoded, StreamCodec, Write, codec_for
from mobile_bundle.codecs.declaration import Declaration, FormatRules, rules_of
from mobile_bundle.codecs.formats import BlobError, Format
from mobile_bundle.codecs.installed import decode_stored
from mobile_bundle.codecs.shared_codebook import Codebook
from mobile_bundle.codecs.source import MatrixSource
from mobile_bundle.codecs.stats import Stats
from mobile_bundle.native.entropy import rans_encode

SUFFIX = "+entropy"
"""What the name of a codec ends in when its blobs are entropy-coded."""
METHODS = ("stored", "rans", "deflate", "lzma")
"""By their number in the blob."""
HEAD_BYTES = 72
"""From the start of the payload to the body: the packed blob's header, the method, zeros."""
DICTIONARY_BYTES = 1 << 18

_SAMPLES = ((1 << 17, 1.05), (1 << 20, 1.01))
"""Deflate and LZMA, which are slow, are tried on samples of so many bytes first, and not on the whole payload when they
make the sample larger by more than this factor than what is best so far makes the whole."""

_LZMA_SETTINGS = ((3, 0, 0), (0, 0, 0), (0, 2, 2))
"""lc, lp, pb: text-like, symbols that do not depend on each other, 32-bit words."""


@dataclass(frozen=True)
class EntropyEncoded(Encoded):
    """method: what was chosen of METHODS. tried: bytes of the whole blob by every method that was tried on all of it;
    sampled: what a method would have taken, by a sample, that was not. packed_bytes: the packed blob's size."""

    method: str
    tried: dict[str, int]
    sampled: dict[str, int]
    packed_bytes: int


@dataclass(frozen=True)
class Compressed:
    """The entropy-coded form of a packed blob, and what was tried: as in EntropyEncoded."""

    blob: Blob
    method: str
    tried: dict[str, int]
    sampled: dict[str, int]


class EntropyCodec(StreamCodec):
    """inner: the codec whose packed blobs are compressed. Without one, a codec that only decodes: the blob says what is
    inside. book: int8 (entries, stride), the shared codebook that decoding needs, if it does.

    ValueError for an inner codec whose blobs are a stored form already."""

    format = Format.ENTROPY

    def __init__(self, inner: StreamCodec | None = None, book: NDArray[np.int8] | None = None) -> None:
        if inner is not None and inner.rules.stored:
            raise ValueError(f"the blobs of codec {inner.name} are a stored form already and are not entropy-coded")
        self.inner = inner
        self._book = book
        self.calibrated = inner is not None and inner.calibrated
        self.carries_codes = inner is not None and inner.carries_codes

    @property
    def name(self) -> str:
        return (self.inner.name if self.inner else "") + SUFFIX

    @property
    def lookup(self) -> str:
        return (self.inner.lookup if self.inner else "") + SUFFIX

    @property
    def packed(self) -> StreamCodec:
        return self.inner or self

    @property
    def shared_codebook(self) -> Codebook | None:
        return self.inner.shared_codebook if self.inner else None

    def reading(self, codebook: NDArray[np.int8]) -> EntropyCodec:
        return EntropyCodec(self.inner, codebook)

    def encode_stream(self, source: MatrixSource, write: Write, stats: Stats | None = None) -> EntropyEncoded:
        """As StreamCodec.encode_stream, but the packed blob and its coded form are in RAM meanwhile. Where nothing
        makes it smaller the packed blob itself is written."""
        inner = self._inner()
        pieces: list[bytes] = []
        encoded = inner.encode_stream(source, lambda piece: pieces.append(bytes(piece)), stats)
        packed = b"".join(pieces)
        pieces.clear()
        result = compress(Blob.parse(packed))
        best = result.blob if result.blob.header.blob_bytes < len(packed) else Blob.parse(packed)
        write(best.to_bytes())
        return EntropyEncoded(
            best.header,
            encoded.squared_error,
            encoded.squared_weight,
            result.method,
            result.tried,
            result.sampled,
            len(packed),
        )

    def decode_rows(self, blob: Blob, begin: int, end: int) -> NDArray[np.float32]:
        packed = expand(blob)
        return self._decoder(packed).decode_rows(packed, begin, end)

    def decode_chunks(self, blob: Blob) -> Iterator[NDArray[np.float32]]:
        self._check(blob)
        packed = expand(blob)
        return self._decoder(packed).decode_chunks(packed)

    def blob_bytes(self, rows: int, columns: int) -> int:
        """At most: the blob's size depends on the weights. This is what it takes when nothing makes it smaller."""
        return HEAD_BYTES + self._inner().blob_bytes(rows, columns)

    def planned_header(self, rows: int, columns: int) -> BlobHeader:
        return BlobHeader(Format.ENTROPY, rows, columns, coded_bytes=self.blob_bytes(rows, columns) - HEADER_BYTES)

    def _decoder(self, packed: Blob) -> StreamCodec:
        codec = codec_for(packed.header)
        return codec if self._book is None else codec.reading(self._book)

    def _inner(self) -> StreamCodec:
        if self.inner is None:
            raise ValueError(f"a codec {SUFFIX} without the name of another in front of it only decodes")
        return self.inner


def compress(packed: Blob) -> Compressed:
    """The smallest entropy-coded form of a packed blob. BlobError if it is a stored form already."""
    if rules_of(packed.header.format).stored:
        raise BlobError(f"format {packed.header.format.name} is a stored form already")
    payload = memoryview(packed.payload)
    bodies: dict[str, tuple[int, bytes | memoryview]] = {
        "stored": (0, payload),
        "rans": (0, rans_encode(np.frombuffer(packed.to_bytes(), np.uint8))),
    }
    sampled: dict[str, int] = {}
    rate = min(len(body) for _, body in bodies.values()) / len(payload)
    for method, make, settings in (("deflate", _deflate, (0,)), ("lzma", _lzma, _LZMA_SETTINGS)):
        setting, size = _try_samples(make, settings, payload, rate)
        if setting is None:
            sampled[method] = HEADER_BYTES + HEAD_BYTES + round(size * len(payload))
        else:
            bodies[method] = make(payload, setting)
    method = min(bodies, key=lambda name: len(bodies[name][1]))
    return Compressed(
        _wrap(packed.header, method, *bodies[method]),
        method,
        {name: HEADER_BYTES + HEAD_BYTES + len(body) for name, (_, body) in bodies.items()},
        sampled,
    )


def expand(blob: Blob) -> Blob:
    """The packed blob in an entropy-coded one, bit for bit. UserError where the blob is damaged."""
    return decode_stored(blob.to_bytes())


def _wrap(inner: BlobHeader, method: str, properties: int, body: bytes | memoryview) -> Blob:
    payload = inner.pack() + bytes([METHODS.index(method), properties]) + bytes(6) + body
    return Blob(BlobHeader(Format.ENTROPY, inner.rows, inner.columns, coded_bytes=len(payload)), payload)


_Setting = tuple[int, int, int] | int
_Coder = Callable[[memoryview, _Setting], tuple[int, bytes]]
"""payload, setting -> the properties byte of the blob, body."""


def _try_samples(
    make: _Coder, settings: tuple[_Setting, ...], payload: memoryview, rate: float
) -> tuple[_Setting | None, float]:
    """The setting that is best for the smallest sample, from the middle of the payload, or None when it is not worth
    trying on the whole; and coded bytes per byte of the last sample. rate: the same of what has been tried."""
    size = 0.0
    for sample_bytes, margin in _SAMPLES:
        first = max(0, (len(payload) - sample_bytes) // 2)
        sample = payload[first : first + sample_bytes]
        sizes = {setting: len(make(sample, setting)[1]) / len(sample) for setting in settings}
        best = min(sizes, key=lambda setting: sizes[setting])
        size = sizes[best]
        if size > margin * rate:
            return None, size
        settings = (best,)
    return settings[0], size


def _deflate(payload: memoryview, _: _Setting) -> tuple[int, bytes]:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    return 0, coder.compress(payload) + coder.flush()


def _lzma(payload: memoryview, setting: _Setting) -> tuple[int, bytes]:
    assert isinstance(setting, tuple)
    lc, lp, pb = setting
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 6, "dict_size": DICTIONARY_BYTES, "lc": lc, "lp": lp, "pb": pb}]
    body = lzma.compress(payload, lzma.FORMAT_RAW, filters=filters)
    return lc + 9 * (lp + 5 * pb), body


def _no_size(rows: int, columns: int, group: int, flags: int) -> int:
    raise BlobError("the size of an entropy-coded blob does not follow from its shape")


DECLARATION = Declaration(
    formats=(
        FormatRules(
            Format.ENTROPY,
            payload_bytes=_no_size,
            decoder=lambda header: EntropyCodec(),
            wraps=True,
        ),
    ),
)
