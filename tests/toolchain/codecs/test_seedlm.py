"""SeedLM: the generator, the exact search (one result from NumPy, C, AVX2 and torch), the layout, its C decoder."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest
from mobile_bundle.codecs import ArraySource, Blob, BlobError, codec_by_name, codec_for
from mobile_bundle.codecs.installed import decode_stored
from mobile_bundle.codecs.seedlm import DEVICE_VARIABLE, seedlm_scale
from mobile_bundle.codecs.seedlm_search import (
    MAX_CONDITION,
    SEEDS,
    SHAPES,
    Found,
    cycle,
    lfsr_states,
    random_matrices,
    search_reference,
    tables,
)
from mobile_bundle.errors import UserError
from mobile_bundle.native.search import search_seedlm
from mobile_bundle.pipeline.weights import build_weights
from numpy.typing import NDArray
from support.paths import STORIES

NAMES = ["seedlm-4bit", "seedlm-3bit"]
SHAPES_TO_TRY = [(1, 1), (1, 8), (5, 1), (3, 7), (17, 13), (16, 96), (19, 101), (2, 1153), (33, 40)]


def gaussian(shape: tuple[int, ...], scale: float = 0.02, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def assert_same(found: Found, expected: Found) -> None:
    np.testing.assert_array_equal(found.seeds, expected.seeds)
    np.testing.assert_array_equal(found.exponents, expected.exponents)
    np.testing.assert_array_equal(found.coefficients, expected.coefficients)


def awkward_blocks(length: int) -> NDArray[np.float32]:
    """Gaussian blocks of many sizes, one-hot, zero and constant ones, outliers, and sums that a seed meets exactly."""
    generator = np.random.default_rng(3)
    sizes = np.float32(10.0) ** np.array([-30, -3, -1, 0, 1, 2, 3, 4, 4.5, 5, 6, 7, 9, 12], np.float32)
    blocks = [generator.standard_normal((len(sizes), length)).astype(np.float32) * sizes[:, None]]
    blocks.append(np.zeros((2, length), np.float32))
    blocks.append(np.full((1, length), 32767, np.float32))
    blocks.append(np.eye(length, dtype=np.float32)[:2] * np.float32(1e5))
    u = random_matrices(np.array([1, 40_000], np.uint16), length, {8: 3, 12: 4}[length])
    blocks.append((u[..., 0] * 5 - u[..., 1] * 3).astype(np.float32) * np.float32(0.5))
    return np.concatenate(blocks)


def test_the_generators_check_vector() -> None:
    """Of the published reproduction: K = 3 (taps 0 and 1), seed 4, C = 4, P = 2."""
    states = lfsr_states(4, 8, bits=3, taps=(0, 1))
    assert states.reshape(4, 2).tolist() == [[2, 5], [6, 7], [3, 1], [4, 2]]


def test_the_generator_has_one_cycle_of_all_states() -> None:
    assert len(np.unique(cycle())) == SEEDS
    assert lfsr_states(int(cycle()[-1]), 1)[0] == 1
    for seed in (1, 77, 65535):
        u = random_matrices(np.array([seed], np.uint16), 12, 4)[0]
        np.testing.assert_array_equal(u.reshape(-1), lfsr_states(seed, 48) - 32768)
    with pytest.raises(ValueError, match=r"1\.\.65535"):
        lfsr_states(0, 1)


@pytest.mark.parametrize("bits", [4, 3])
def test_tables(bits: int) -> None:
    table = tables(bits)
    # The limit is far from every condition number, and the bound's allowance counts on less than 56.
    assert not ((table.conditions > 56) & (table.conditions < 1.4 * MAX_CONDITION)).any()
    kept = table.conditions < MAX_CONDITION
    np.testing.assert_array_equal(table.seeds[:SEEDS] > 0, kept)
    assert kept.mean() > 0.99
    places = np.flatnonzero(kept)[::997]
    u = random_matrices(table.seeds[places], table.length, table.coefficients).astype(np.float64)
    inverse = np.linalg.inv(np.linalg.cholesky(u.transpose(0, 2, 1) @ u))
    rows, columns = np.tril_indices(table.coefficients)
    np.testing.assert_allclose(table.factors[places], inverse[:, rows, columns], rtol=1e-9, atol=1e-16)
    smallest = np.linalg.svd(u, compute_uv=False).min()
    assert table.smallest <= smallest * (1 + 1e-9)


@pytest.mark.parametrize("bits", [4, 3])
def test_every_search_gives_the_definitions_result(bits: int) -> None:
    length = SHAPES[bits][0]
    blocks = np.concatenate([gaussian((8, length), 32767, 1), awkward_blocks(length)])
    expected = search_reference(blocks, bits)
    found = search_seedlm(blocks, tables(bits))
    assert_same(found, expected)
    assert_same(search_seedlm(blocks, tables(bits), threads=3), expected)
    assert_same(search_seedlm(blocks, tables(bits), kernels="scalar"), expected)


@pytest.mark.parametrize("bits", [4, 3])
def test_torch_gives_the_same(bits: int) -> None:
    pytest.importorskip("torch")
    from mobile_bundle.codecs.seedlm_gpu import search_torch

    length = SHAPES[bits][0]
    blocks = np.concatenate([gaussian((20, length), 32767, 2), awkward_blocks(length)[2:]])
    assert_same(search_torch(blocks, bits, "cpu"), search_seedlm(blocks, tables(bits)))


def test_torch_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from mobile_bundle.codecs.seedlm_gpu import search_torch

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="in a checkout of mobile-bundle"):
        search_torch(np.zeros((1, 8), np.float32), 4, "cpu:0")


def test_a_processor_without_the_instructions_is_told() -> None:
    with pytest.raises(UserError, match="no neon for SeedLM"):
        search_seedlm(np.zeros((1, 8), np.float32), tables(4), kernels="neon")


def test_the_bound_leaves_few_seeds() -> None:
    for bits, most in ((4, 40), (3, 40)):
        blocks = gaussian((512, SHAPES[bits][0]), 32767)
        assert search_seedlm(blocks, tables(bits)).evaluated < most * len(blocks)


@pytest.mark.parametrize(("bits", "error"), [(4, 0.0152), (3, 0.052)])
def test_error_on_gaussian_weights(bits: int, error: float) -> None:
    weight = gaussian((128, 192), 1.0)
    codec = codec_by_name(f"seedlm-{bits}bit")
    plain = codec.encode_stream(ArraySource(weight), len)
    assert plain.relative_error <= error
    assert codec.bits_per_weight(1536, 1536) == pytest.approx(bits, abs=1e-3)
    # The weights' own scale is divided out: the same codes, whatever it is.
    small = codec.encode_stream(ArraySource(weight * np.float32(2.0**-20)), len)
    assert small.relative_error == pytest.approx(plain.relative_error, rel=1e-6)


def slow_decode(data: bytes) -> NDArray[np.float32]:
    """One weight at a time, from the text of packed_formats.h."""
    _, _, kind, rows, columns, group, flags, scale, _, size = struct.unpack_from("<4sHHIIIIfIQ", data)
    assert (kind, flags) == (33, 0)
    payload, p_count = data[64:], {8: 3, 12: 4}[group]
    assert len(payload) == size
    per_row = -(-columns // group)
    nibbles = [byte >> shift & 15 for byte in payload[2 * rows * per_row :] for shift in (0, 4)]
    assert len(nibbles) - rows * per_row * (p_count + 1) in (0, 1)
    out = np.empty((rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            block = row * per_row + column // group
            (state,) = struct.unpack_from("<H", payload, 2 * block)
            assert state > 0
            values = []
            for _ in range(group * p_count):
                state = state >> 1 | (bin(state & 0x100B).count("1") & 1) << 15
                values.append(state - 32768)
            e, *q = (nibble - 8 for nibble in nibbles[block * (p_count + 1) : (block + 1) * (p_count + 1)])
            total = sum(values[column % group * p_count + p] * q[p] for p in range(p_count))
            out[row, column] = np.float32(total) * (np.float32(scale) * np.float32(2.0**e))
    return out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES_TO_TRY)
def test_layout_and_decoders(name: str, shape: tuple[int, int]) -> None:
    """NumPy gives what the header's text says, and an install what `affine-8bit` makes of those very values."""
    weight = gaussian(shape, seed=shape[1])
    codec = codec_by_name(name)
    blob = codec.encode(weight)
    decoded = codec_for(blob.header).decode(blob)
    np.testing.assert_array_equal(decoded, slow_decode(blob.to_bytes()))
    assert codec.blob_bytes(*shape) == len(blob.to_bytes())
    assert decode_stored(blob.to_bytes()).to_bytes() == codec_by_name("affine-8bit").encode(decoded).to_bytes()
    if weight.size > 100:
        assert np.square(decoded - weight).sum() < 0.08 * np.square(weight).sum()


def crafted(name: str, rows: int, columns: int, scale: float, seed: int) -> bytes:
    """A blob of random bytes: every seed and nibble is a code, so no search is needed to fill large matrices."""
    codec = codec_by_name(name)
    generator = np.random.default_rng(seed)
    size = codec.blob_bytes(rows, columns) - 64
    payload = generator.integers(0, 256, size).astype(np.uint8)
    count = rows * -(-columns // codec.group)
    payload[: 2 * count] = generator.integers(1, 65536, count).astype("<u2").view(np.uint8)
    header = struct.pack("<4sHHIIIIfIQ24s", b"MBWB", 1, 33, rows, columns, codec.group, 0, scale, 0, size, bytes(24))
    return header + payload.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_random_codes_of_random_shapes_decode_alike(name: str) -> None:
    generator = np.random.default_rng(11)
    for seed in range(30):
        rows, columns = int(generator.integers(1, 50)), int(generator.integers(1, 2600))
        scale = float(np.float32(10.0 ** generator.uniform(-42, 26) * generator.choice([-1, 1])))
        blob = Blob.parse(crafted(name, rows, columns, scale, seed))
        decoded = codec_by_name(name).decode(blob)
        expected = codec_by_name("affine-8bit").encode(decoded)
        assert decode_stored(blob.to_bytes()).to_bytes() == expected.to_bytes()
        last = (rows - 1) // 16 * 16
        np.testing.assert_array_equal(codec_by_name(name).decode_rows(blob, last, rows), decoded[last:])


@pytest.mark.parametrize("name", NAMES)
def test_zeros_and_tiny_and_large_weights(name: str) -> None:
    codec = codec_by_name(name)
    zeros = np.zeros((18, 70), np.float32)
    np.testing.assert_array_equal(codec.decode(codec.encode(zeros)), zeros)
    assert seedlm_scale(ArraySource(zeros)) == 1
    for scale in (1e-44, 1e-37, 1e-20, 1e13):
        weight = gaussian((4, 48), 1.0) * np.float32(scale)
        blob = codec.encode(weight)
        assert np.isfinite(codec.decode(blob)).all()
        assert np.isfinite(codec_by_name("affine-8bit").decode(decode_stored(blob.to_bytes()))).all()
    for value in (np.nan, np.inf, -np.inf):
        weight = gaussian((20, 50))
        weight[13, 7] = value
        with pytest.raises(ValueError, match="NaN or infinite"):
            codec.encode(weight)
    with pytest.raises(ValueError, match="up to 1e"):
        codec.encode(np.full((2, 2), 2e15, np.float32))


def test_chunks_and_the_device_variable_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    from mobile_bundle.codecs import source

    weight = gaussian((40, 24))
    codec = codec_by_name("seedlm-4bit")
    whole = codec.encode(weight).to_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(source, "CHUNK_VALUES", 16 * 24)
        assert codec.encode(weight).to_bytes() == whole
    pytest.importorskip("torch")
    monkeypatch.setenv(DEVICE_VARIABLE, "cpu")
    assert codec.encode(weight).to_bytes() == whole
    monkeypatch.setenv(DEVICE_VARIABLE, "cuda:99")
    with pytest.raises(UserError, match="cuda:99"):
        codec.encode(weight)


def test_damage_is_refused() -> None:
    for name in NAMES:
        good = bytearray(crafted(name, 18, 100, 1e-6, 0))
        damaged = good.copy()
        damaged[64:66] = b"\0\0"
        with pytest.raises(UserError, match="code that does not exist"):
            decode_stored(bytes(damaged))
        with pytest.raises(BlobError, match="seed 0"):
            codec_by_name(name).decode(Blob.parse(bytes(damaged)))
        damaged = good.copy()
        damaged[24:28] = struct.pack("<f", 1e35)
        with pytest.raises(UserError, match="too large"):
            decode_stored(bytes(damaged))
        for at, value in ((8, 17), (12, 130), (16, 10), (20, 1), (32, 1), (63, 1)):
            damaged = good.copy()
            damaged[at] = value
            with pytest.raises(UserError):
                decode_stored(bytes(damaged))
        with pytest.raises(UserError, match="payload size"):
            decode_stored(bytes(good[:-1]))


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_built(tmp_path, name) -> None:
    records = build_weights(STORIES, name, tmp_path / "weights.ptd")
    body = [record for record in records if record.codec == name]
    assert len(body) > 30
    assert all(0.005 < record.relative_error < 0.06 for record in body)
