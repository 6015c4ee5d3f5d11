"""Codecs: every layout against an independent slow reader of packed_formats.h, error bounds, sizes, edge cases."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mobile_bundle.codecs import ArraySource, Blob, BlobError, Format, codec_by_name, codec_for, codec_names
from mobile_bundle.codecs.affine import BYTE_STEPS, AffineCodec, power_of_two_scale
from mobile_bundle.codecs.blob import HEADER_BYTES, payload_bytes
from mobile_bundle.codecs.formats import FIRST_STORED_FORMAT
from mobile_bundle.codecs.raw import from_bfloat16, to_bfloat16
from mobile_bundle.errors import UserError
from numpy.typing import NDArray
from support.slow_readers import slow_sparse

AFFINE = [
    f"affine-{bits}bit-g{group}-{kind}"
    for bits in (2, 3, 4, 5, 6, 8)
    for group in (32, 64, 128)
    for kind in ("sym", "asym", "e4m4")
    if kind != "e4m4" or bits in BYTE_STEPS
]
# Stored forms and VPTQ have test files of their own (test_base3.py, test_seedlm.py, test_hyper.py, test_vptq.py, ...).
PACKED = [
    name
    for name in codec_names()
    if codec_by_name(name).format < FIRST_STORED_FORMAT and codec_by_name(name).format is not Format.VECTOR
]
TRELLIS = [f"trellis-{bits}bit-g{group}" for bits in (2, 3) for group in ("32", "64", "32-e4m4", "128-e4m4")]
TRELLIS += [f"trellis-2.5bit-g{group}" for group in ("64", "128", "64-e4m4", "128-e4m4")]
ALL = [*PACKED, *AFFINE, *TRELLIS]
SHAPES = [(1, 1), (1, 200), (37, 1), (16, 128), (17, 131), (61, 172), (300, 40)]


def gaussian(rows: int, columns: int, scale: float = 0.02, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * scale).astype(np.float32)


# An independent reader, one weight at a time, straight from the text of packed_formats.h.


def slow_decode(data: bytes) -> NDArray[np.float32]:
    magic, version, kind, rows, columns, group, flags, scale, zero, size = struct.unpack_from("<4sHHIIIIfIQ", data)
    assert (magic, version, zero, data[40:64]) == (b"MBWB", 1, 0, bytes(24))
    payload = data[64:]
    assert len(payload) == size
    out = np.empty((rows, columns), np.float32)
    if kind == 1:
        return np.array(struct.unpack(f"<{rows * columns}f", payload), np.float32).reshape(rows, columns)
    if kind == 2:
        for i in range(rows * columns):
            out.flat[i] = struct.unpack("<f", b"\0\0" + payload[2 * i : 2 * i + 2])[0]
        return out
    if kind == 8:
        return slow_sparse(rows, columns, flags, scale, payload)
    padded = -(-rows // 16) * 16
    if kind == 3:
        strip_bytes = 4 * (-(-columns // 16) * 16)
        row_scales = struct.unpack_from(f"<{padded}f", payload, padded // 16 * strip_bytes) if flags & 2 else None
        for row in range(padded):
            s = scale if row_scales is None else row_scales[row]
            for column in range(-(-columns // 16) * 16):
                block, within = divmod(column, 16)
                f, k = divmod(within, 4)
                code = payload[row // 16 * strip_bytes + 64 * block + 4 * (row % 16) + k] >> (2 * f) & 3
                if row < rows and column < columns:
                    assert code < 3
                    out[row, column] = np.float32(s) * np.float32(code - 1)
                else:
                    assert code == 1  # padding
            if row >= rows and row_scales is not None:
                assert s == 0
        return out
    bits = {4: 2, 5: 3, 6: 4, 7: 8, 11: 5, 12: 6, 13: 1, 16: 2, 17: 3, 18: 2.5}[kind]
    trellis = kind >= 16
    head = (64 if flags & 1 else 32) // (2 if flags & 8 else 1)
    record = head + int(16 * group * bits) // 8
    groups = -(-columns // group)
    for row in range(padded):
        r = row % 16
        for column in range(groups * group):
            g, c = divmod(column, group)
            base = (row // 16 * groups + g) * record
            d = e4m4(payload[base + r]) if flags & 8 else struct.unpack_from("<e", payload, base + 2 * r)[0]
            m = struct.unpack_from("<e", payload, base + 32 + 2 * r)[0] if flags & 9 == 1 else 0.0
            if flags & 9 == 9:
                m = -d * payload[base + 16 + r] / 2 ** (8 - bits)
            code = slow_code(payload[base + head : base + record], bits, r, c)
            if row >= rows or column >= columns:
                assert code == 0 or (trellis and row < rows)  # padding
                assert row < rows or (d == 0 and m == 0)
                continue
            if flags & 1:
                value = np.float32(d * code) + np.float32(m)
            else:
                value = np.float32(d * slow_level(payload[base + head : base + record], kind, bits, r, c))
            out[row, column] = np.float32(scale) * value
    return out


def e4m4(byte: int) -> float:
    exponent, mantissa = divmod(byte, 16)
    return float(mantissa * 2.0**-18 if exponent == 0 else (16 + mantissa) * 2.0 ** (exponent - 19))


def slow_level(codes: bytes, kind: int, bits: float, r: int, c: int) -> int:
    """What a code of a format without offsets stands for."""
    if kind >= 16:
        return slow_trellis(codes, bits, r, c)
    code = slow_code(codes, bits, r, c)
    if bits == 1:
        return 2 * code - 1
    return code if bits == 8 else code - (1 << (int(bits) - 1))


def slow_trellis(codes: bytes, bits: float, r: int, c: int) -> int:
    """The level of column c of a group: what its window says, less 16."""
    tables = {
        (2, False): "4 11 13 8 15 19 22 17 10 15 17 13 19 24 28 21",
        (3, True): "3 7 16 18 12 14 21 23 9 11 18 20 14 16 25 29",
        (2.5, True): "1 7 16 19 10 13 22 26 6 10 19 22 13 16 25 31",
        (2.5, False): "1 8 5 12 15 20 17 22 10 15 12 17 20 26 24 31",
    }
    within = c % 16
    place = 4 * (within % 4) + within // 4

    def upper(number: int) -> int:
        number %= 16
        return slow_code(codes, bits, r, c - within + 4 * (number % 4) + number // 4) >> 1 & 1

    code = slow_code(codes, bits, r, c)
    has_plane = bits == 3 or (bits == 2.5 and within // 4 in (0, 2))
    second = code >> 2 if has_plane else upper(place - 1)
    window = (upper(place - 2) + upper(place - 3)) % 2 + 2 * second + 4 * (code & 3)
    return int(tables[bits, has_plane].split()[window]) - 16


def slow_code(codes: bytes, bits: float, r: int, c: int) -> int:
    if bits == 2.5:
        block, column = codes[320 * (c // 64) :], c % 64
        f, k = column % 16 // 4, column % 4
        pair = block[64 * (column // 16) + 4 * r + k] >> (2 * f) & 3
        return pair if f % 2 else pair | (block[256 + 4 * r + k] >> (2 * (column // 16) + f // 2) & 1) << 2
    if bits == 8:
        (value,) = struct.unpack_from("<b", codes, 64 * (c // 4) + 4 * r + c % 4)
        assert -127 <= value <= 127
        return int(value)
    if bits == 4:
        return codes[64 * (c // 8) + 4 * r + c % 4] >> (4 * (c % 8 // 4)) & 15
    if bits == 1:
        return codes[16 * (c // 8) + r] >> (c % 8) & 1
    if bits == 5:
        block = codes[320 * (c // 32) :]
        low = block[256 + 4 * r + c % 4] >> (c % 32 // 4) & 1
        return 2 * slow_code(block, 4, r, c % 32) + low
    if bits == 6:
        block = codes[192 * (c // 16) :]
        return 4 * slow_code(block, 4, r, c % 16) + slow_code(block[128:], 2, r, c % 16)
    if bits == 2:
        return codes[64 * (c // 16) + 4 * r + c % 4] >> (2 * (c % 16 // 4)) & 3
    block = codes[192 * (c // 32) :]
    low = block[64 * (c % 32 // 16) + 4 * r + c % 4] >> (2 * (c % 16 // 4)) & 3
    high = block[128 + 4 * r + c % 4] >> (c % 32 // 4) & 1
    return low | high << 2


@pytest.mark.parametrize("name", ALL)
def test_decode_is_the_slow_reference(name: str) -> None:
    codec = codec_by_name(name)
    for shape in SHAPES:
        weight = gaussian(*shape, seed=shape[0])
        blob = codec.encode(weight)
        decoded = codec_for(blob.header).decode(blob)
        assert decoded.dtype == np.float32
        assert decoded.shape == shape
        np.testing.assert_array_equal(decoded, slow_decode(blob.to_bytes()))


@pytest.mark.parametrize("name", ALL)
def test_sizes_and_errors_are_exact(name: str) -> None:
    codec = codec_by_name(name)
    for shape in SHAPES:
        weight = gaussian(*shape)
        pieces: list[bytes] = []
        encoded = codec.encode_stream(ArraySource(weight), lambda piece, pieces=pieces: pieces.append(bytes(piece)))
        data = b"".join(pieces)
        assert len(data) == codec.blob_bytes(*shape)
        assert codec.bits_per_weight(*shape) == 8 * len(data) / weight.size
        assert Blob.parse(data).to_bytes() == data
        lost = np.square((codec.decode(Blob.parse(data)) - weight).astype(np.float64)).sum()
        total = np.square(weight.astype(np.float64)).sum()
        assert encoded.relative_error == pytest.approx(lost / total, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "bits", "error"),
    [
        ("raw", 16.0, 3e-6),
        ("f32", 32.0, 0),
        ("affine-8bit", 8.5, 3e-5),
        ("affine-6bit", 6.25, 0.00055),
        ("affine-5bit", 5.25, 0.0021),
        ("affine-4bit", 4.25, 0.0087),
        ("affine-3bit", 3.25, 0.0317),
        ("affine-2bit", 2.25, 0.115),
        ("affine-4bit-g64-asym", 4.5, 0.0073),
        ("affine-4bit-g32-e4m4", 4.5, 0.0055),
        ("affine-5bit-g64-e4m4", 5.25, 0.0018),
        ("affine-6bit-g32-e4m4", 6.5, 0.00034),
        ("affine-2bit-g64-asym", 2.5, 0.107),
        ("bitnet", 2.0, 0.27),
        ("sign-1bit", 1.125, 0.37),
        ("trellis-2bit", 2.125, 0.0832),
        ("trellis-2bit-g128", 2.125, 0.0853),
        ("trellis-2bit-g128-e4m4", 2.0625, 0.0855),
        ("trellis-2.5bit", 2.625, 0.0441),
        ("trellis-2.5bit-g128-e4m4", 2.5625, 0.0456),
        ("trellis-3bit", 3.125, 0.0232),
        ("trellis-3bit-g128-e4m4", 3.0625, 0.0243),
    ],
)
def test_error_on_gaussian_weights(name: str, bits: float, error: float) -> None:
    codec = codec_by_name(name)
    weight = gaussian(512, 1024)
    encoded = codec.encode_stream(ArraySource(weight), lambda piece: None)
    assert encoded.relative_error <= error
    assert codec.bits_per_weight(*weight.shape) == pytest.approx(bits, abs=2e-3)


def test_chunks_do_not_show() -> None:
    """A matrix that takes several chunks is coded as its parts are."""
    weight = gaussian(4096 + 37, 160)
    for name in (
        "raw",
        "affine-3bit",
        "affine-8bit",
        "affine-5bit",
        "sign-1bit",
        "bitnet",
        "bitnet-row",
        "trellis-3bit",
    ):
        codec = codec_by_name(name)
        blob = codec.encode(weight)
        tail = codec.decode_rows(blob, 4096, 4096 + 37)
        np.testing.assert_array_equal(tail, codec.decode(blob)[4096:])
        assert sum(len(chunk) for chunk in codec.decode_chunks(blob)) == len(weight)


@pytest.mark.parametrize("scale", [1e-30, 3e-7, 1.0, 1e4, 1e30])
@pytest.mark.parametrize(
    "name", ["affine-8bit", "affine-4bit", "affine-4bit-g64-asym", "affine-2bit", "affine-5bit", "trellis-2.5bit"]
)
def test_the_header_scale_keeps_fp16_away_from_its_limits(name: str, scale: float) -> None:
    weight = gaussian(48, 256, 1.0)
    plain = codec_by_name(name).encode_stream(ArraySource(weight), lambda piece: None)
    scaled = codec_by_name(name).encode_stream(ArraySource(weight * np.float32(scale)), lambda piece: None)
    assert scaled.relative_error == pytest.approx(plain.relative_error, rel=0.02)


def test_power_of_two_scale() -> None:
    for largest in (1e-45, 1e-38, 0.3, 1.0, 65504.0, 3.4e38):
        scale = power_of_two_scale(largest)
        assert np.float32(scale) == scale
        assert np.frexp(scale)[0] == 0.5
        assert largest / scale < 2**15
    assert power_of_two_scale(0.0) == 1.0
    assert 2**14 <= 0.02 / power_of_two_scale(0.02) < 2**15


def test_a_matrix_on_the_grid_is_stored_without_loss() -> None:
    generator = np.random.default_rng(0)
    for bits in (2, 3, 4, 5, 6, 8):
        low = -127 if bits == 8 else -(1 << (bits - 1))
        high = 127 if bits == 8 else (1 << (bits - 1)) - 1
        for asymmetric in (False, True):
            codes = generator.integers(low, high + 1, (32, 128)).astype(np.float32)
            codes[:, ::32] = low  # every group reaches both ends
            codes[:, 1::32] = high
            weight = codes * np.float32(0.25) + np.float32(0.5 if asymmetric else 0.0)
            codec = AffineCodec(bits, 32, asymmetric)
            np.testing.assert_array_equal(codec.decode(codec.encode(weight)), weight)


def test_large_weights_are_not_clipped_for_the_small_ones() -> None:
    """Heavy tails, 4 bits: the largest weight of a group comes out closer than by squared error alone."""
    weight = np.random.default_rng(0).standard_t(4, (4000, 64)).astype(np.float32) * 1000
    codec = AffineCodec(4, 64, False)
    largest = np.arange(len(weight)), np.abs(weight).argmax(axis=1)
    lost = []
    for importance in (None, np.ones(64, np.float32)):
        fit = codec._fit(weight, importance)
        decoded = fit.codes * fit.d.astype(np.float32)[:, None]
        lost.append(np.square((decoded - weight)[largest]).sum())
        np.testing.assert_allclose(fit.error, np.square(decoded - weight).sum(axis=1), rtol=1e-4)
    assert lost[0] < 0.5 * lost[1]


def test_binary_weights_are_stored_without_loss() -> None:
    generator = np.random.default_rng(0)
    for group in (32, 64, 128):
        d = generator.uniform(0.01, 0.03, (50, 3)).astype(np.float16).astype(np.float32)
        d[7, 1] = 0
        weight = np.repeat(d, group, axis=1)[:, :-5] * generator.choice([-1, 1], (50, 3 * group - 5))
        codec = codec_by_name("sign-1bit" if group == 128 else f"sign-1bit-g{group}")
        np.testing.assert_array_equal(codec.decode(codec.encode(weight)), weight)


@pytest.mark.parametrize("name", ALL)
def test_zeros_and_constants(name: str) -> None:
    codec = codec_by_name(name)
    zeros = np.zeros((18, 70), np.float32)
    np.testing.assert_array_equal(codec.decode(codec.encode(zeros)), zeros)
    if codec.format in (Format.SPARSE_TERNARY, Format.TRELLIS2, Format.TRELLIS25, Format.TRELLIS3):
        return  # a zero in every four columns: no constant but 0; a trellis searches no scale for constants
    if name.endswith("e4m4"):  # the scale is within a 32nd, and codes make up for part of it
        np.testing.assert_allclose(codec.decode(codec.encode(np.full((18, 70), -0.375, np.float32))), -0.375, rtol=0.03)
        return
    constant = np.full((18, 70), -0.375, np.float32)
    np.testing.assert_allclose(codec.decode(codec.encode(constant)), constant, rtol=1e-3)


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("raw", "f32")])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(name: str, value: float) -> None:
    weight = gaussian(20, 50)
    weight[13, 7] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        codec_by_name(name).encode(weight)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 150)),
    bits=st.sampled_from([2, 3, 4, 5, 6, 8]),
    group=st.sampled_from([32, 64, 128]),
    kind=st.sampled_from(["sym", "asym", "e4m4"]),
    spread=st.floats(-20, 20),
    seed=st.integers(0, 1 << 30),
)
def test_no_weight_is_further_off_than_clipping_allows(
    shape: tuple[int, int], bits: int, group: int, kind: str, spread: float, seed: int
) -> None:
    asymmetric, e4m4 = kind != "sym", kind == "e4m4" and bits in BYTE_STEPS
    generator = np.random.default_rng(seed)
    weight = (generator.standard_normal(shape) * np.exp(generator.uniform(-3, 3, shape) + spread)).astype(np.float32)
    codec = AffineCodec(bits, group, asymmetric, e4m4=e4m4)
    blob = codec.encode(weight)
    decoded = codec.decode(blob)
    assert np.isfinite(decoded).all()
    np.testing.assert_array_equal(decoded, slow_decode(blob.to_bytes()))
    for first in range(0, shape[1], group):  # never worse than the plain range without clipping, group by group
        w = weight[:, first : first + group].astype(np.float64)
        span = (w.max(1).clip(0) - w.min(1).clip(max=0)) if e4m4 else w.max(1) - w.min(1)
        step = span / (2**bits - 1) if asymmetric else np.abs(w).max(1) / 2 ** (bits - 1)
        lost = np.square(decoded[:, first : first + group] - w).sum(1)
        # lopsided codes: the end without a code of its own may be a whole step away
        most = 0.8 if e4m4 else 0.51 if asymmetric else 1.01  # a scale of one byte is up to a 32nd off
        allowed = w.shape[1] * np.square(step * most) + 1e-6 * np.square(w).max(1)
        assert (lost <= allowed * 1.01).all()


def test_ternary_is_lossless() -> None:
    generator = np.random.default_rng(0)
    for shape in SHAPES:
        weight = (generator.integers(-1, 2, shape) * np.float32(0.0341796875)).astype(np.float32)
        codec = codec_by_name("bitnet")
        blob = codec.encode(weight)
        np.testing.assert_array_equal(codec.decode(blob), weight)
        if weight.any():
            assert blob.header.scale == np.float32(0.0341796875)
        rows = np.abs(generator.standard_normal((shape[0], 1))).astype(np.float32)
        by_row = np.sign(weight) * rows
        np.testing.assert_array_equal(
            codec_by_name("bitnet-row").decode(codec_by_name("bitnet-row").encode(by_row)), by_row
        )


def test_absmean_is_what_transformers_does() -> None:
    pytest.importorskip("transformers")
    import torch
    from transformers.integrations.bitnet import WeightQuant

    for seed in range(3):
        weight = gaussian(96, 172, 0.05, seed)
        quantise = getattr(WeightQuant.forward, "__wrapped__", None) or WeightQuant.forward
        expected = quantise(None, torch.from_numpy(weight)).numpy()
        decoded = codec_by_name("bitnet").decode(codec_by_name("bitnet").encode(weight))
        np.testing.assert_array_equal(np.sign(decoded), np.sign(expected))
        np.testing.assert_allclose(decoded, expected, rtol=3e-7)


def test_bfloat16_rounds_to_nearest_even_and_never_to_infinity() -> None:
    bits = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    finite = bits[(bits & 0x7FFF) < 0x7F80]
    np.testing.assert_array_equal(to_bfloat16(from_bfloat16(finite)), finite)
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).integers(0, 1 << 32, 100_000, dtype=np.uint32).view(np.float32)
    values = values[np.isfinite(values) & (np.abs(values) < 3e38)]
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(to_bfloat16(values), expected)
    largest = np.array([np.finfo(np.float32).max, np.finfo(np.float32).min], np.float32)
    assert np.isfinite(from_bfloat16(to_bfloat16(largest))).all()


def test_blobs_that_are_damaged_are_refused() -> None:
    good = codec_by_name("affine-4bit").encode(gaussian(20, 70)).to_bytes()

    def header(offset: int, value: bytes) -> bytes:
        return good[:offset] + value + good[offset + len(value) :]

    broken = {
        "magic": header(0, b"X"),
        "version": header(4, struct.pack("<H", 2)),
        "format": header(6, struct.pack("<H", 99)),
        "rows": header(8, struct.pack("<I", 0)),
        "more rows": header(8, struct.pack("<I", 1 << 27)),
        "columns": header(12, struct.pack("<I", 0xFFFFFFFF)),
        "group": header(16, struct.pack("<I", 48)),
        "flags": header(20, struct.pack("<I", 4)),
        "flags of another format": header(20, struct.pack("<I", 2)),
        "scale": header(24, struct.pack("<f", float("nan"))),
        "reserved": header(28, b"\1"),
        "payload size": header(32, struct.pack("<Q", 1)),
        "reserved end": header(63, b"\1"),
        "truncated": good[:-1],
        "too long": good + b"\0",
        "no header": good[:63],
    }
    for data in broken.values():
        with pytest.raises(BlobError):
            Blob.parse(data)


def test_payload_sizes() -> None:
    assert payload_bytes(3, 17, 17) == 32 * 32 // 4
    assert payload_bytes(3, 17, 17, 0, 2) == 32 * 32 // 4 + 32 * 4
    assert payload_bytes(4, 16, 64, 64, 1) == 64 + 256
    assert payload_bytes(5, 16, 32, 32) == 32 + 192
    assert payload_bytes(7, 1, 1, 128) == 32 + 2048
    assert payload_bytes(11, 17, 1, 64, 1) == 2 * (64 + 640)
    assert payload_bytes(13, 17, 1, 128) == 2 * (32 + 256)
    assert HEADER_BYTES == 64
    for arguments in (
        (0, 1, 1),
        (14, 1, 1),
        (13, 1, 1, 32, 1),
        (1, 1, 1, 64),
        (3, 1, 1, 0, 1),
        (4, 1, 1, 0),
        (1, 1, 1, 0, 1),
    ):
        with pytest.raises(BlobError):
            payload_bytes(*arguments)


def test_names() -> None:
    with pytest.raises(UserError, match="unknown codec 'affine-7bit'"):
        codec_by_name("affine-7bit")
    for name in ALL:
        assert codec_by_name(name).name == name
    with pytest.raises(ValueError, match="does not read format"):
        codec_by_name("raw").decode(codec_by_name("bitnet").encode(gaussian(4, 4)))
