"""Vector blobs: Python's packing against an independent slow reader of packed_formats.h and against the C decoder; the
encoder's nearest-entry search against NumPy."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mobile_bundle.codecs.blob import Blob, BlobError
from mobile_bundle.codecs.vector_blob import (
    VectorParts,
    decode_vector,
    pack_indices,
    pack_vector,
    split_codebooks,
    stack_codebooks,
    unpack_indices,
    unpack_vector,
)
from mobile_bundle.codecs.vector_layout import VectorLayout
from mobile_bundle.errors import UserError
from mobile_bundle.native import vector as native_vector
from mobile_bundle.native.vector import nearest
from numpy.typing import NDArray
from support.formats_library import build_formats, decoded_by_c
from support.paths import ROOT


def random_parts(layout: VectorLayout, rows: int, columns: int, seed: int = 0) -> VectorParts:
    """Codes of all three kinds that never leave [-127, 127] together."""
    rng = np.random.default_rng(seed)
    vectors = -(-columns // layout.length)

    def book(bits: int, most: int) -> NDArray[np.int8]:
        return rng.integers(-most, most + 1, (1 << bits, layout.length)).astype(np.int8)

    def indices(bits: int) -> NDArray[np.uint16]:
        return rng.integers(0, 1 << bits, (rows, vectors)).astype(np.uint16)

    residual = layout.residual_bits
    return VectorParts(
        layout,
        columns,
        2.0**-7,
        rng.uniform(0.3, 2, rows).astype(np.float16),
        book(layout.index_bits, 87),
        book(residual, 20) if residual else None,
        indices(layout.index_bits),
        indices(residual) if residual else None,
        np.sort(rng.choice(columns, layout.outliers, replace=False)).astype(np.uint32),
        rng.integers(-20, 21, (rows, layout.outliers)).astype(np.int8),
    )


def slow_decode(data: bytes, shared: bytes = b"") -> NDArray[np.float32]:
    """One weight at a time, straight from the text of packed_formats.h."""
    magic, version, kind, rows, columns, group, flags, scale, _, size = struct.unpack_from("<4sHHIIIIfIQ", data)
    assert (magic, version, kind, size) == (b"MBWB", 1, 9, len(data) - 64)
    payload = data[64:]
    v, b, e, n = flags >> 4 & 15, flags >> 8 & 31, flags >> 13 & 31, flags >> 18
    stride = 4 if v == 4 else 8 if v <= 8 else 16
    assert group == (128 if v in (4, 8) else 0)

    def aligned(at: int) -> int:
        assert not any(payload[at : -(-at // 64) * 64])  # gaps are zero
        return -(-at // 64) * 64

    books = shared if flags & 4 else payload
    residual = books[stride << b :]
    at = aligned(0 if flags & 4 else stride * ((1 << b) + (1 << e if e else 0)))
    scales = struct.unpack_from(f"<{rows}e", payload, at)
    at = aligned(at + 2 * rows)
    outliers = struct.unpack_from(f"<{n}I", payload, at)
    values = payload[at + 4 * n : at + 4 * n + n * rows]
    at = aligned(at + 4 * n + n * rows)
    vectors = -(-columns // v)

    def fields(at: int, bits: int) -> list[list[int]]:
        width = -(-vectors * bits // 8)
        lines = [int.from_bytes(payload[at + r * width : at + (r + 1) * width], "little") for r in range(rows)]
        assert all(line >> (vectors * bits) == 0 for line in lines)
        return [[line >> (bits * k) & ((1 << bits) - 1) for k in range(vectors)] for line in lines]

    first = fields(at, b)
    at += rows * -(-vectors * b // 8)
    if e:
        at = aligned(at)
        second = fields(at, e)
        at += rows * -(-vectors * e // 8)
    assert payload[at:] == bytes(16)
    out = np.empty((rows, columns), np.float32)
    for r in range(rows):
        for c in range(columns):
            k, j = divmod(c, v)
            q = books[first[r][k] * stride + j]
            if e:
                q += residual[second[r][k] * stride + j]
            if c in outliers:
                q += values[r * n + outliers.index(c)]
            q = (q + 128) % 256 - 128
            out[r, c] = np.float32(scale) * (np.float32(scales[r]) * np.float32(q))
    return out


layouts = st.builds(
    VectorLayout,
    st.integers(4, 12),
    st.integers(8, 11),
    st.sampled_from([0, 0, 8, 9, 10]),
    st.integers(0, 3),
    st.booleans(),
)


@given(layout=layouts, rows=st.integers(1, 9), columns=st.integers(3, 83), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_layout_is_what_the_header_file_says(layout, rows, columns, seed):
    parts = random_parts(layout, rows, columns, seed)
    blob = Blob.parse(pack_vector(parts).to_bytes())
    shared = stack_codebooks(layout, parts.codebook, parts.residual) if layout.shared else None
    expected = slow_decode(blob.to_bytes(), shared.tobytes() if shared is not None else b"")
    np.testing.assert_array_equal(decode_vector(blob, shared), expected)
    np.testing.assert_array_equal(parts.weights(), expected)
    again = unpack_vector(blob, shared)
    for name in ("row_scales", "codebook", "indices", "outlier_columns", "outlier_values", "residual_indices"):
        np.testing.assert_array_equal(getattr(again, name), getattr(parts, name))
    if rows > 2:
        np.testing.assert_array_equal(decode_vector(blob, shared, 1, rows - 1), expected[1 : rows - 1])


@pytest.mark.parametrize("bits", range(8, 17))
def test_indices_of_every_width_round_trip(bits):
    rng = np.random.default_rng(bits)
    for vectors in (1, 7, 8, 9, 31):
        indices = rng.integers(0, 1 << bits, (5, vectors)).astype(np.uint16)
        packed = pack_indices(indices, bits)
        assert packed.shape == (5, -(-vectors * bits // 8))
        for row, line in zip(indices, packed, strict=True):
            whole = sum(int(index) << (bits * k) for k, index in enumerate(row))
            assert bytes(line) == whole.to_bytes(packed.shape[1], "little")
        np.testing.assert_array_equal(unpack_indices(packed, vectors, bits), indices)


def test_a_large_matrix_packs_in_chunks_of_rows():
    parts = random_parts(VectorLayout(6, 12), 3000, 301)
    np.testing.assert_array_equal(unpack_vector(pack_vector(parts)).indices, parts.indices)


def test_codes_wrap_around_at_8_bits():
    parts = random_parts(VectorLayout(4, 8, 8), 3, 9)
    parts = replace(parts, codebook=np.full((256, 4), 100, np.int8), residual=np.full((256, 4), 100, np.int8))
    assert (parts.codes() == -56).all()


def test_what_does_not_fit_is_refused():
    layout = VectorLayout(5, 8, 8, 2)
    good = random_parts(layout, 4, 23)
    pack_vector(good)
    assert good.residual is not None
    many = np.full((4, 5), 1, np.int16)
    for change, message in (
        ({"layout": replace(layout, index_bits=7)}, "layout"),
        ({"layout": replace(layout, outliers=1)}, "outliers"),
        ({"columns": 26}, "columns"),
        ({"row_scales": good.row_scales.astype(np.float32)}, "float16"),
        ({"row_scales": np.full(4, np.inf, np.float16)}, "finite"),
        ({"codebook": good.codebook[:, :4]}, "codebook"),
        ({"codebook": np.full((256, 5), -128, np.int8)}, "-127"),
        ({"residual": None}, "residual"),
        ({"residual_indices": None}, "residual"),
        ({"codebook": good.codebook[:3]}, "below 3"),
        ({"indices": many - 2}, "below 256"),
        ({"outlier_columns": np.array([5, 5], np.uint32)}, "ascend"),
        ({"outlier_columns": np.array([5, 23], np.uint32)}, "ascend"),
        ({"residual": np.full((256, 5), 100, np.int8)}, "leaves"),
    ):
        with pytest.raises(ValueError, match=message):
            pack_vector(replace(good, **change))


def test_damaged_blobs_are_refused():
    layout = VectorLayout(4, 8, 0, 2)
    blob = pack_vector(random_parts(layout, 4, 23))
    stacked = stack_codebooks(layout, random_parts(layout, 4, 23).codebook)
    with pytest.raises(BlobError, match="its own"):
        unpack_vector(blob, stacked)
    at = layout.sections(4, 23)
    for change in ({at["end"] - 1: 1}, {at["outlier_columns"]: 23, at["outlier_columns"] + 4: 22}):
        data = bytearray(blob.to_bytes())
        for where, value in change.items():
            data[64 + where] = value
        with pytest.raises(BlobError, match=r"out of order|last 16"):
            unpack_vector(Blob.parse(bytes(data)))
    shared = replace(layout, shared=True)
    with pytest.raises(BlobError, match="another tensor"):
        unpack_vector(pack_vector(random_parts(shared, 4, 23)))
    with pytest.raises(ValueError, match="256 x 4"):
        split_codebooks(layout, stacked[1:])


@pytest.fixture(scope="module")
def formats(tmp_path_factory) -> ctypes.CDLL:
    return build_formats(tmp_path_factory.mktemp("formats"))


@pytest.mark.parametrize(
    "layout",
    [VectorLayout(4, 8), VectorLayout(6, 12, 0, 3), VectorLayout(8, 16), VectorLayout(12, 9, 13, 1, True)],
    ids=str,
)
@pytest.mark.parametrize("shape", [(1, 4), (17, 131), (40, 256)])
def test_c_and_python_decode_the_same_numbers(formats, layout, shape):
    parts = random_parts(layout, *shape)
    blob = pack_vector(parts)
    stacked = stack_codebooks(layout, parts.codebook, parts.residual) if layout.shared else None
    np.testing.assert_array_equal(decoded_by_c(formats, blob, shape, stacked), decode_vector(blob, stacked))


def slow_nearest(points: NDArray[np.float32], centroids: NDArray[np.float32], halves: NDArray[np.float32]):
    """The definition, one float32 operation after another."""
    scores = np.broadcast_to(halves, (len(points), len(centroids))).copy()
    for j in range(points.shape[1]):
        scores -= points[:, j : j + 1] * centroids[:, j]
    return scores.argmin(axis=1)


@pytest.mark.parametrize("length", [1, 2, 4, 5, 6, 8, 11, 16, 32])
@pytest.mark.parametrize("entries", [1, 2, 15, 16, 17, 256, 1500])
def test_nearest_entry_is_numpys(length, entries):
    rng = np.random.default_rng(length * entries)
    centroids = rng.standard_normal((entries, length)).astype(np.float32)
    halves = (centroids.astype(np.float64) ** 2).sum(axis=1).astype(np.float32) / np.float32(2)
    for count in (0, 1, 15, 17, 700):
        points = rng.standard_normal((count, length)).astype(np.float32)
        expected = slow_nearest(points, centroids, halves)
        for threads in (1, 2, 3):
            np.testing.assert_array_equal(nearest(points, centroids, threads, halves), expected)
    distances = ((points[:, None].astype(np.float64) - centroids) ** 2).sum(axis=2)
    chosen = distances[np.arange(count), nearest(points, centroids)]
    np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["MB_PORTABLE_SEARCH", "MB_AVX2_SEARCH"])
def test_other_processors_find_the_same_entries(tmp_path, monkeypatch, kind):
    """The search without AVX2, and without AVX-512, built by itself."""
    library, runtime = tmp_path / "portable.so", ROOT / "runtime"
    base = (f"base/{name}.c" for name in ("thread_pool", "error", "one_line", "unicode"))
    sources = [runtime / name for name in ("search/vector_search.c", *base)]
    folders = [f"-I{runtime}", f"-I{runtime / 'include'}"]
    options = ["-std=c11", "-D_GNU_SOURCE", f"-D{kind}", "-O2", "-ffp-contract=off", "-fPIC", "-shared"]
    subprocess.run(["cc", *options, *folders, *sources, "-o", library, "-lpthread"], check=True)
    rng = np.random.default_rng(8)
    points, centroids = (rng.standard_normal((n, 6)).astype(np.float32) for n in (1000, 700))
    centroids[300:600] = centroids[:300]  # ties
    fast = nearest(points, centroids, 2)
    portable = ctypes.CDLL(os.fspath(library))
    portable.mb_vector_nearest.argtypes = native_vector._library().mb_vector_nearest.argtypes
    monkeypatch.setattr(native_vector, "_library", lambda: portable)
    np.testing.assert_array_equal(nearest(points, centroids, 2), fast)


def test_of_equal_entries_the_first_is_taken():
    rng = np.random.default_rng(5)
    centroids = np.repeat(rng.integers(-3, 4, (40, 4)).astype(np.float32), 30, axis=0)  # ties within and across tiles
    points = rng.integers(-3, 4, (900, 4)).astype(np.float32)
    index = nearest(points, centroids, 2)
    np.testing.assert_array_equal(index, slow_nearest(points, centroids, (centroids**2).sum(axis=1) / 2))
    assert (index % 30 == 0).all()


def test_half_norms_make_weighted_distances():
    rng = np.random.default_rng(6)
    points, centroids = (rng.standard_normal((n, 6)).astype(np.float32) for n in (500, 64))
    weights = rng.uniform(0.1, 4, 6).astype(np.float32)
    got = nearest(points, centroids * weights, 1, (weights * centroids**2).sum(axis=1) / 2)
    distances = (weights * (points[:, None] - centroids).astype(np.float64) ** 2).sum(axis=2)
    np.testing.assert_array_equal(got, distances.argmin(axis=1))


def test_searches_that_make_no_sense_are_refused():
    points, centroids = np.zeros((3, 4), np.float32), np.zeros((5, 4), np.float32)
    with pytest.raises(ValueError, match="length"):
        nearest(points, centroids[:, :3])
    with pytest.raises(ValueError, match="half norms"):
        nearest(points, centroids, 1, np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="NaN"):
        nearest(np.full((3, 4), np.nan, np.float32), centroids)
    with pytest.raises(UserError, match="threads"):
        nearest(points, centroids, 0)
    with pytest.raises(UserError, match="entries"):
        nearest(points, np.zeros((65537, 4), np.float32))
