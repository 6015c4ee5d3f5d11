"""Hyper-Compression's lattice: the layout against its text, the nearest code against all codes, the C decoder."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from mobile_bundle.codecs import ArraySource, Blob, BlobError, codec_by_name, codec_for, source
from mobile_bundle.codecs.hyper import CLASSES, NODES, LatticeHead, fit_head, nearest_indices
from mobile_bundle.codecs.installed import decode_stored
from mobile_bundle.errors import UserError
from mobile_bundle.pipeline.weights import build_weights
from numpy.typing import NDArray
from support.paths import STORIES

SHAPES = [(1, 1), (1, 2), (1, 1153), (37, 1), (2, 79), (16, 96), (17, 1151), (61, 172), (33, 2593), (300, 40)]


def gaussian(shape: tuple[int, int], seed: int = 0, scale: float = 0.02) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def slow_decode(data: bytes) -> NDArray[np.float32]:
    """One weight at a time, from the text of lattice.h."""
    _, _, kind, rows, columns, group, flags, scale, _, size = struct.unpack_from("<4sHHIIIIfIQ", data)
    assert (kind, group, flags, scale, size) == (34, 0, 0, 1, len(data) - 64)
    head = np.frombuffer(data, "<f4", 6, 64)
    assert data[64 + 24 : 64 + 64] == bytes(40)
    stream = int.from_bytes(data[128:], "little")
    per_row = (columns + 1) // 2
    assert stream >> (13 * rows * per_row) == 0
    out = np.empty((rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            index = stream >> (13 * (row * per_row + column // 2)) & 8191
            k, n = divmod(index, 1601)
            coordinate = (2 * n - 1599, 40 * (2 * (n % 40) - 39))[column % 2] if n < 1600 else 0
            out[row, column] = np.float32(coordinate) * head[2 + k] + head[column % 2]
    return out


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[0] * shape[1] < 13_000])
def test_layout(shape: tuple[int, int]) -> None:
    codec = codec_by_name("hyper")
    blob = codec.encode(gaussian(shape, shape[1]))
    np.testing.assert_array_equal(codec_for(blob.header).decode(blob), slow_decode(blob.to_bytes()))
    assert codec.blob_bytes(*shape) == len(blob.to_bytes())


@pytest.mark.parametrize("shape", SHAPES)
def test_an_install_gives_what_affine_8bit_makes_of_the_values(shape: tuple[int, int]) -> None:
    codec = codec_by_name("hyper")
    blob = codec.encode(gaussian(shape, shape[1]))
    decoded = codec.decode(blob)
    assert decode_stored(blob.to_bytes()).to_bytes() == codec_by_name("affine-8bit").encode(decoded).to_bytes()


def test_random_codes_of_random_shapes_decode_alike() -> None:
    generator = np.random.default_rng(3)
    codec = codec_by_name("hyper")
    for _ in range(30):
        rows, columns = int(generator.integers(1, 60)), int(generator.integers(1, 2400))
        unit = 10.0 ** generator.uniform(-40, 30)
        head = LatticeHead(*(generator.standard_normal(n).astype(np.float32) * np.float32(unit) for n in (2, 4)))
        count = rows * ((columns + 1) // 2)
        indices = generator.integers(0, CLASSES * (NODES + 1), count)
        bits = (indices[:, None] >> np.arange(13) & 1).astype(np.uint8)
        payload = head.pack() + np.packbits(bits.reshape(-1), bitorder="little").tobytes()
        header = struct.pack("<4sHHIIIIfIQ24s", b"MBWB", 1, 34, rows, columns, 0, 0, 1, 0, len(payload), bytes(24))
        blob = Blob.parse(header + payload)
        decoded = codec.decode(blob)
        assert decode_stored(blob.to_bytes()).to_bytes() == codec_by_name("affine-8bit").encode(decoded).to_bytes()
        last = (rows - 1) // 16 * 16
        np.testing.assert_array_equal(codec.decode_rows(blob, last, rows), decoded[last:])


def test_the_nearest_of_all_codes_is_found() -> None:
    generator = np.random.default_rng(9)
    for weight in (gaussian((40, 50)), generator.standard_t(2, (40, 50)).astype(np.float32) - np.float32(0.3)):
        head = fit_head(ArraySource(weight))
        pairs = weight.reshape(-1, 2)
        n = np.arange(NODES)
        unit = np.stack([2.0 * n - 1599, 40.0 * (2 * (n % 40) - 39)], axis=1)
        points = np.concatenate([np.concatenate([unit, [[0.0, 0.0]]]) * step for step in head.step.astype(np.float64)])
        points += head.centre
        distance = np.square(points[None] - pairs[:, None].astype(np.float64)).sum(axis=2)
        indices = nearest_indices(head, pairs)
        found = distance[np.arange(len(pairs)), indices]
        np.testing.assert_allclose(found, distance.min(axis=1), rtol=1e-4, atol=1e-7 * float(head.step[0]) ** 2)
        assert len(np.unique(indices // (NODES + 1))) == CLASSES  # every class is of use


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-6, 1.0, 1e12])
def test_error_on_gaussian_weights(scale: float) -> None:
    codec = codec_by_name("hyper")
    weight = gaussian((256, 512), 0, 1.0)
    encoded = codec.encode(weight * np.float32(scale))
    back = codec.decode(encoded).astype(np.float64) / scale
    assert np.square(back - weight).sum() < 6.5e-4 * np.square(weight.astype(np.float64)).sum()
    assert codec.bits_per_weight(1536, 1536) == pytest.approx(6.5, abs=1e-3)


def test_the_reported_error_is_the_error() -> None:
    weight = gaussian((70, 333), 4) + np.float32(0.01)
    encoded = codec_by_name("hyper").encode_stream(ArraySource(weight), len)
    lost = codec_by_name("hyper").decode(codec_by_name("hyper").encode(weight)).astype(np.float64) - weight
    assert encoded.relative_error == pytest.approx(
        np.square(lost).sum() / np.square(weight.astype(np.float64)).sum(), rel=1e-4
    )


def test_an_outlier_is_kept() -> None:
    weight = gaussian((64, 64))
    weight[3, 5] = 4.0  # 200 standard deviations
    codec = codec_by_name("hyper")
    back = codec.decode(codec.encode(weight))
    assert back[3, 5] == pytest.approx(4.0, rel=0.03)
    rest = np.square(back - weight).sum() - (back[3, 5] - 4.0) ** 2
    assert rest < 0.03 * (np.square(weight).sum() - 16)


def test_zeros_and_constants_are_kept() -> None:
    codec = codec_by_name("hyper")
    for value in (0.0, -0.375):
        for shape in ((18, 70), (5, 1)):
            weight = np.full(shape, value, np.float32)
            back = codec.decode(codec.encode(weight))
            np.testing.assert_allclose(back, weight, rtol=0 if shape[1] > 1 else 0.02)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = gaussian((200, 37))
    whole = codec_by_name("hyper").encode(weight)
    monkeypatch.setattr(source, "CHUNK_VALUES", 16 * 37)
    pieces = codec_by_name("hyper").encode(weight)
    # The centre is a sum of float64 chunk by chunk, rounded to float32; the rest follows from it.
    assert pieces.to_bytes() == whole.to_bytes()
    np.testing.assert_array_equal(codec_by_name("hyper").decode(whole), codec_by_name("hyper").decode(pieces))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    weight = gaussian((20, 50))
    weight[13, 7] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        codec_by_name("hyper").encode(weight)
    with pytest.raises(ValueError, match="up to 1e"):
        codec_by_name("hyper").encode(np.full((2, 2), 2e15, np.float32))


def test_damage_is_refused() -> None:
    good = bytearray(codec_by_name("hyper").encode(gaussian((18, 167))).to_bytes())
    broken = {
        "code that does not exist": (128, b"\xff\xff"),
        "too large": (72, struct.pack("<f", 3e38)),
        "head of the lattice": (64, struct.pack("<f", float("inf"))),
        "head of": (84, struct.pack("<f", float("nan"))),
        "lattice blob is damaged": (127, b"\1"),
        "payload size": (12, struct.pack("<I", 169)),
        "header of the stored blob": (63, b"\1"),
    }
    for message, (at, data) in broken.items():
        damaged = good.copy()
        damaged[at : at + len(data)] = data
        with pytest.raises(UserError, match=message):
            decode_stored(bytes(damaged))
        if "payload size" not in message and "too large" not in message:
            with pytest.raises(BlobError):
                codec_by_name("hyper").decode(Blob.parse(bytes(damaged)))
    with pytest.raises(UserError, match="payload size"):
        decode_stored(bytes(good[:-1]))


def test_a_checkpoint_is_built(tmp_path) -> None:
    records = build_weights(STORIES, "hyper", tmp_path / "weights.ptd")
    body = [record for record in records if record.codec == "hyper"]
    assert len(body) > 30
    assert all(record.relative_error < 0.005 for record in body)
