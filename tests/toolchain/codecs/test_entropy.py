"""The lossless stage: bit for bit, near the entropy, the smallest method wins, and damage never gets far."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from mobile_bundle.codecs import ArraySource, Blob, BlobError, codec_by_name, codec_for
from mobile_bundle.codecs.blob import BlobHeader, Format
from mobile_bundle.codecs.entropy import EntropyCodec, compress, expand
from mobile_bundle.codecs.vector_layout import VectorLayout
from mobile_bundle.errors import UserError
from mobile_bundle.native.entropy import decode_with, rans_encode
from numpy.typing import NDArray
from support.entropy_coded import METHODS, as_array, by_deflate, by_lzma, by_rans, wrap

CODECS = [
    "raw", "f32", "bitnet", "bitnet-row", "affine-8bit", "affine-4bit", "affine-3bit", "affine-2bit",
    "affine-3bit-g32-asym", "affine-4bit-g128-asym", "affine-5bit-g32-asym", "affine-6bit", "sign-1bit",
    "trellis-2bit", "trellis-2.5bit", "trellis-3bit-g32", "affine-3bit-g32-e4m4", "affine-6bit-g64-e4m4",
]  # fmt: skip
SHAPES = [(1, 1), (1, 211), (37, 1), (17, 131), (300, 461)]


def gaussian(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * 0.02).astype(np.float32)


def skewed_bytes(count: int, seed: int = 0, p: float = 0.3) -> bytes:
    return ((np.random.default_rng(seed).geometric(p, count) - 1) % 256).astype(np.uint8).tobytes()


def int8_blob(data: bytes, columns: int = 1) -> Blob:
    return Blob(BlobHeader(Format.INT8, len(data) // columns, columns), data)


def vector_blob(layout: VectorLayout, rows: int, columns: int, skewed: bool = True) -> Blob:
    header = BlobHeader(Format.VECTOR, rows, columns, layout.group, layout.flags)
    size = header.payload_bytes
    return Blob(header, skewed_bytes(size) if skewed else np.random.default_rng(1).bytes(size))


# An independent decoder of the rANS body, symbol by symbol, straight from the text of entropy.h and streams.h.


class SlowStream:
    def __init__(self) -> None:
        self.state: list[int] = []
        self.model: list[tuple[int, int, int]] = []  # for every slot: symbol, frequency, start


class SlowReader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        self.at += count
        assert self.at <= len(self.data)
        return self.data[self.at - count : self.at]


def slow_symbols(reader: SlowReader, stream: SlowStream, count: int) -> bytes:
    mode = reader.take(1)[0]
    if mode == 0:
        return reader.take(count)
    if mode == 1:
        return reader.take(1) * count
    if mode == 2:
        present = reader.take(32)
        stream.model = []
        for symbol in range(256):
            if present[symbol // 8] >> symbol % 8 & 1:
                frequency = reader.take(1)[0]
                if frequency >= 128:
                    frequency += 128 * reader.take(1)[0] - 128
                start = len(stream.model)
                stream.model += [(symbol, frequency + 1, start)] * (frequency + 1)
        assert len(stream.model) == 4096
    if not stream.state:
        stream.state = list(struct.unpack("<32I", reader.take(128)))
    (words,) = struct.unpack("<I", reader.take(4))
    pending = list(struct.unpack(f"<{words}H", reader.take(2 * words)))[::-1]
    out = bytearray()
    for i in range(count):
        x = stream.state[i % 32]
        symbol, frequency, start = stream.model[x % 4096]
        x = frequency * (x // 4096) + x % 4096 - start
        if x < 65536:
            x = 65536 * x + pending.pop()
        stream.state[i % 32] = x
        out.append(symbol)
    assert not pending
    return bytes(out)


def slow_units(header: BlobHeader) -> list[tuple[str, int, list[int]]]:
    """Every unit of the payload in order: its kind, first stream, and symbols per stream."""
    rows, columns = -(-header.rows // 16) * 16, header.columns
    if header.format is Format.BF16:
        return [("interleaved", 0, [1, 1])] * (header.rows * columns)
    if header.format is Format.TERNARY2:
        units = [("plain", 0, [1])] * (rows * (-(-columns // 16) * 16) // 4)
        return units + ([("interleaved", 1, [1] * 4)] * rows if header.flags & 2 else [])
    if header.format is Format.VECTOR:
        layout = VectorLayout.from_flags(header.flags)
        at = layout.sections(header.rows, columns)
        book = layout.entries * layout.stride
        units = [("pair", 0, [layout.length, layout.stride - layout.length])] * layout.entries
        units += [("plain", 1, [1])] * (at["row_scales"] - book)
        units += [("interleaved", 2, [1, 1])] * header.rows
        units += [("plain", 1, [1])] * (at["outlier_columns"] - at["row_scales"] - 2 * header.rows)
        units += [("interleaved", 4, [1] * 4)] * layout.outliers
        units += [("plain", 8, [1])] * (layout.outliers * header.rows)
        units += [("plain", 1, [1])] * (at["indices"] - at["outlier_values"] - layout.outliers * header.rows)
        bits = layout.index_bits
        row_bytes = layout.row_bytes(columns, bits)
        row = [("indices", 9, [8, bits - 8])] * (row_bytes // bits) + [("plain", 11, [1])] * (row_bytes % bits)
        return units + row * header.rows + [("plain", 1, [1])] * 16
    bits = {Format.AFFINE3: 3, Format.AFFINE4: 4}[header.format]
    codes = header.group * bits * 2
    record = [("interleaved", 0, [1, 1])] * 16
    if header.flags & 1:
        record += [("interleaved", 2, [1, 1])] * 16
    record += [("three", 4, [256])] * (codes // 192) if bits == 3 else [("plain", 4, [1])] * codes
    return record * (rows // 16 * -(-columns // header.group))


def slow_unit(kind: str, parts: list[bytes]) -> bytes:
    """The packed bytes of a unit from its symbols."""
    if kind == "three":
        s = parts[0]
        low0 = bytes(s[i] & 15 | s[64 + i] << 4 & 255 for i in range(64))
        low1 = bytes(s[128 + i] & 15 | s[192 + i] << 4 & 255 for i in range(64))
        high = bytes(s[i] >> 4 | s[64 + i] >> 4 << 2 | s[128 + i] >> 4 << 4 | s[192 + i] >> 4 << 6 for i in range(64))
        return low0 + low1 + high
    if kind == "indices":
        bits = 8 + len(parts[1])
        low = int.from_bytes(parts[1], "little")
        value = 0
        for k, high in enumerate(parts[0]):
            field = high << (bits - 8) | low >> k * (bits - 8) & ((1 << bits - 8) - 1)
            value |= field << k * bits
        return value.to_bytes(bits, "little")
    return b"".join(parts)


def slow_decode(header: BlobHeader, body: bytes) -> bytes:
    reader = SlowReader(body)
    streams = [SlowStream() for _ in range(15)]
    units = slow_units(header)
    out = bytearray()
    begin = 0
    while begin < len(units):
        end, room = begin, 65536
        counts = [0] * 15
        while end < len(units):
            kind, first, symbols = units[end]
            size = 192 if kind == "three" else sum(symbols)
            if size > room:
                break
            room -= size
            for k, count in enumerate(symbols):
                counts[first + k] += count
            end += 1
        data = [slow_symbols(reader, streams[k], count) if count else b"" for k, count in enumerate(counts)]
        at = [0] * 15
        for kind, first, symbols in units[begin:end]:
            parts = []
            for k, count in enumerate(symbols):
                parts.append(data[first + k][at[first + k] : at[first + k] + count])
                at[first + k] += count
            out += slow_unit(kind, parts)
        begin = end
    assert reader.at == len(body)
    assert all(state == 65536 for stream in streams for state in stream.state)
    return bytes(out)


@pytest.mark.parametrize(
    "name", ["bitnet-row", "raw", "affine-3bit", "affine-4bit-g64-asym", "affine-3bit-g32-asym", "vector"]
)
def test_the_rans_body_is_what_the_specification_says(name: str) -> None:
    if name == "vector":
        packed = vector_blob(VectorLayout(6, 11, outliers=3), 70, 900)
    else:
        packed = codec_by_name(name).encode(gaussian(130, 1300))
    body = rans_encode(as_array(packed))
    assert slow_decode(packed.header, body) == bytes(packed.payload)


@pytest.mark.parametrize("name", CODECS)
def test_every_method_gives_the_packed_blob_back(name: str) -> None:
    for shape in SHAPES:
        for weight in (gaussian(*shape), np.zeros(shape, np.float32), np.full(shape, -0.5, np.float32)):
            packed = codec_by_name(name).encode(weight)
            coded = [compress(packed).blob, by_rans(packed), by_deflate(packed), by_lzma(packed)]
            coded += [wrap(packed, "stored", bytes(packed.payload)), by_lzma(packed, 0, 2, 4)]
            for blob in coded:
                assert expand(blob).to_bytes() == packed.to_bytes()


@pytest.mark.parametrize("bits", range(8, 17))
def test_vector_blobs(bits: int) -> None:
    for layout in (
        VectorLayout(4 + bits % 9, bits),
        VectorLayout(8, bits, 24 - bits, 5),
        VectorLayout(6, bits, shared=True),
    ):
        for rows, columns in ((1, 12), (19, 331)):
            for skewed in (False, True):
                packed = vector_blob(layout, rows, columns, skewed)
                assert expand(by_rans(packed)).to_bytes() == packed.to_bytes()


@pytest.mark.parametrize("flags", [0, 2])
def test_sparse_ternary_blobs(flags: int) -> None:
    for rows, columns in ((1, 1), (33, 1600), (40, 1601), (70, 3300)):
        header = BlobHeader(Format.SPARSE_TERNARY, rows, columns, 0, flags)
        packed = Blob(header, skewed_bytes(header.payload_bytes))
        assert expand(by_rans(packed)).to_bytes() == packed.to_bytes()


@pytest.mark.parametrize("decoder", ["scalar", "avx2"])
def test_every_decoder_gives_the_same_bytes(decoder: str) -> None:
    for packed in (int8_blob(skewed_bytes(200_003)), codec_by_name("affine-3bit").encode(gaussian(61, 2000))):
        coded = as_array(by_rans(packed))
        try:
            data = decode_with(decoder, coded, len(packed.to_bytes()))
        except UserError as error:
            if "no rANS decoder avx2" not in str(error):
                raise
            pytest.skip("this processor has no AVX2")
        assert data.tobytes() == packed.to_bytes()
        with pytest.raises(UserError, match="no room"):
            decode_with(decoder, coded, len(packed.to_bytes()) - 1)


def entropy_bytes(symbols: NDArray[np.generic]) -> float:
    """Order-0 entropy of all symbols, in bytes."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float((counts * np.log2(len(symbols) / counts)).sum() / 8)


def check_near(packed: Blob, entropy: float) -> None:
    size = len(rans_encode(as_array(packed)))
    assert 0.999 * entropy < size < 1.01 * entropy, f"{size} bytes, entropy {entropy:.0f}"


@pytest.mark.parametrize(("name", "bits"), [("affine-2bit", 2), ("affine-3bit", 3), ("affine-4bit", 4)])
def test_codes_are_within_one_percent_of_their_entropy(name: str, bits: int) -> None:
    codec = codec_by_name(name)
    packed = codec.encode(gaussian(512, 2048))
    heads = 2 if packed.header.flags & 1 else 1
    records = np.frombuffer(packed.payload, np.uint8).reshape(-1, 32 * heads + packed.header.group * bits * 2)
    entropy = 0.0
    for first in range(0, 32 * heads, 32):
        for byte in range(2):
            entropy += min(entropy_bytes(records[:, first + byte : first + 32 : 2].ravel()), 16 * len(records))
    codes = records[:, 32 * heads :]
    if bits == 3:
        blocks = codes.reshape(-1, 3, 64)
        values = [
            blocks[:, j // 4] >> 2 * (j % 4) & 3 | (blocks[:, 2] >> j & 1) << 2 for j in range(8)
        ]  # column 4j + k of the 32
    else:
        values = [codes >> shift & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    check_near(packed, entropy + entropy_bytes(np.concatenate([v.ravel() for v in values])))


def test_ternary_codes_are_within_one_percent_of_their_entropy() -> None:
    packed = codec_by_name("bitnet").encode(gaussian(512, 2048))
    codes = np.frombuffer(packed.payload, np.uint8)
    check_near(packed, entropy_bytes(np.concatenate([codes >> shift & 3 for shift in (0, 2, 4, 6)])))


@pytest.mark.parametrize("p", [0.05, 0.3, 0.6, 0.9])
def test_skewed_bytes_are_within_one_percent_of_their_entropy(p: float) -> None:
    data = skewed_bytes(500_000, p=p)
    check_near(int8_blob(data), entropy_bytes(np.frombuffer(data, np.uint8)))


def test_rows_of_another_kind_get_a_model_of_their_own() -> None:
    first = np.frombuffer(skewed_bytes(1 << 18, p=0.3), np.uint8)
    second = 255 - np.frombuffer(skewed_bytes(1 << 18, 1, p=0.7), np.uint8)
    both = np.concatenate([first, second])
    size = len(rans_encode(as_array(int8_blob(both.tobytes()))))
    parts = entropy_bytes(first) + entropy_bytes(second)
    assert size < 1.01 * parts
    assert parts < 0.8 * entropy_bytes(both)


def test_the_smallest_method_wins_and_says_so() -> None:
    generator = np.random.default_rng(0)
    noise = generator.bytes(100_000)
    words = [generator.bytes(int(n)) for n in generator.integers(3, 9, 50)]
    text = b"".join(words[i] for i in generator.integers(0, 50, 30_000))
    for data, winners in (
        (skewed_bytes(100_000), {"rans"}),
        (noise, {"stored"}),
        (noise * 4, {"lzma"}),  # repeats farther back than deflate looks
        (text, {"deflate", "lzma"}),
        (bytes(300_000), {"rans"}),  # one constant per chunk
    ):
        result = compress(int8_blob(data))
        assert result.method in winners
        size = len(result.blob.to_bytes())
        assert size == result.tried[result.method] == min(result.tried.values())
        assert all(estimate > size for estimate in result.sampled.values())
        assert set(result.tried) | set(result.sampled) == set(METHODS)
        assert expand(result.blob).payload == data


def test_slow_methods_are_not_tried_in_vain() -> None:
    packed = codec_by_name("affine-4bit").encode(gaussian(512, 4096))
    result = compress(packed)
    assert result.method == "rans"
    assert set(result.sampled) == {"deflate", "lzma"}


def test_codec() -> None:
    weight = gaussian(120, 700)
    for name in ("affine-4bit", "bitnet", "vptq-v4-b8"):
        inner = codec_by_name(name)
        codec = codec_by_name(name + "+entropy")
        assert isinstance(codec, EntropyCodec)
        assert codec.name == name + "+entropy"
        pieces: list[bytes] = []
        encoded = codec.encode_stream(ArraySource(weight), lambda piece, out=pieces: out.append(bytes(piece)))
        blob = Blob.parse(b"".join(pieces))
        packed = inner.encode(weight)
        assert blob.header == encoded.header
        assert expand(blob).to_bytes() == packed.to_bytes()
        assert encoded.packed_bytes == len(packed.to_bytes())
        assert encoded.header.format is Format.ENTROPY
        assert encoded.tried[encoded.method] == len(blob.to_bytes()) < codec.blob_bytes(*weight.shape)
        np.testing.assert_array_equal(codec_for(blob.header).decode(blob), inner.decode(packed))
        np.testing.assert_array_equal(codec.decode_rows(blob, 16, 48), inner.decode_rows(packed, 16, 48))
        assert encoded.relative_error == inner.encode_stream(ArraySource(weight), lambda piece: None).relative_error


def test_a_tiny_blob_is_better_kept_packed() -> None:
    codec = codec_by_name("raw+entropy")
    assert isinstance(codec, EntropyCodec)
    weight, pieces = gaussian(1, 3), []
    encoded = codec.encode_stream(ArraySource(weight), lambda piece: pieces.append(bytes(piece)))
    assert encoded.method == "stored"
    assert b"".join(pieces) == codec_by_name("raw").encode(weight).to_bytes()
    assert encoded.header.format is Format.BF16
    assert encoded.header.blob_bytes == encoded.packed_bytes < codec.blob_bytes(1, 3)


def test_a_stored_form_is_not_coded_again() -> None:
    with pytest.raises(UserError, match="stored form"):
        codec_by_name("bitnet-1.6bit+entropy")
    with pytest.raises(UserError, match="stored form"):
        codec_by_name("bitnet+entropy+entropy")
    with pytest.raises(UserError, match="unknown codec"):
        codec_by_name("fractal+entropy")
    with pytest.raises(BlobError, match="stored form"):
        compress(codec_by_name("bitnet-1.6bit").encode(gaussian(4, 10)))


def expand_damaged(packed: Blob, data: bytes) -> str:
    """What became of a damaged blob: "refused", "wrong" or "right"."""
    try:
        decoded = expand(Blob.parse(data))
    except (UserError, BlobError):
        return "refused"
    assert len(decoded.payload) == decoded.header.payload_bytes
    return "right" if decoded.to_bytes() == packed.to_bytes() else "wrong"


@pytest.mark.parametrize("code", [by_rans, by_deflate, by_lzma])
def test_every_truncation_is_refused(code) -> None:
    packed = codec_by_name("bitnet-row").encode(gaussian(33, 300))
    whole = code(packed)
    data = bytes(whole.payload)
    for length in range(len(data)):
        header = BlobHeader(Format.ENTROPY, whole.header.rows, whole.header.columns, coded_bytes=length)
        assert expand_damaged(packed, header.pack() + data[:length]) == "refused"
    longer = BlobHeader(Format.ENTROPY, whole.header.rows, whole.header.columns, coded_bytes=len(data) + 1)
    assert expand_damaged(packed, longer.pack() + data + b"\0") == "refused"


@pytest.mark.parametrize("code", [by_rans, by_deflate, by_lzma])
def test_flipped_bits_are_refused_or_give_wrong_bytes(code) -> None:
    packed = codec_by_name("affine-3bit").encode(gaussian(33, 300))
    whole = code(packed).to_bytes()
    generator = np.random.default_rng(0)
    outcomes = {"refused": 0, "wrong": 0, "right": 0}
    for _ in range(1500):
        data = bytearray(whole)
        for bit in generator.integers(0, 8 * len(data), generator.integers(1, 4)):
            data[bit // 8] ^= 1 << bit % 8
        outcomes[expand_damaged(packed, bytes(data))] += 1
    assert outcomes["refused"] > 200  # a literal that turned into another is only seen by a checksum
    assert outcomes["right"] < 15  # deflate's last byte has bits that mean nothing


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"X", "header inside"),
        (6, struct.pack("<H", 33), "another stored form"),
        (8, struct.pack("<I", 34), "shape inside"),
        (64, b"\x04", "unknown method"),
        (66, b"\x01", "unknown method"),
    ],
)
def test_a_wrong_head_says_what_is_wrong(at: int, value: bytes, message: str) -> None:
    blob = by_rans(codec_by_name("bitnet").encode(gaussian(33, 300)))
    payload = bytearray(blob.payload)
    payload[at : at + len(value)] = value
    with pytest.raises(UserError, match=message):
        expand(Blob(blob.header, bytes(payload)))
