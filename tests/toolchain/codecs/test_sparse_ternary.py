"""bitnet-1.25bit (S4-R32): the layout against a slow reader of packed_formats.h, the rule, exact matrices, bundles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.codecs import ArraySource, Blob, codec_by_name, codec_for
from mobile_bundle.codecs.source import chunk_rows
from mobile_bundle.codecs.sparse_ternary import SparseTernaryCodec
from mobile_bundle.errors import UserError
from mobile_bundle.native.engine import Model
from mobile_bundle.pipeline.weights import build_weights
from safetensors.numpy import load_file, save_file
from support import machines
from support.checkpoints import write_tiny
from support.paths import EXAMPLE
from support.slow_readers import Floats, slow_sparse

# One row and column, ragged groups, and columns around one and two tiles of 1,600.
SHAPES = [(1, 1), (1, 3), (33, 4), (40, 31), (64, 33), (17, 172), (3, 1599), (35, 1600), (2, 1601), (5, 3233)]


def gaussian(rows: int, columns: int, seed: int = 0) -> Floats:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * 0.02).astype(np.float32)


def structured(rows: int, columns: int, magnitude: float, seed: int = 0) -> Floats:
    """-a, 0 and a with exactly one zero in every group of four columns, at most one in a last one of fewer."""
    generator = np.random.default_rng(seed)
    groups = -(-columns // 4)
    signs = generator.choice(np.array([-1, 1], np.float32), (rows, groups, 4))
    np.put_along_axis(signs, generator.integers(4, size=(rows, groups, 1)), 0, axis=2)
    return (signs.reshape(rows, -1)[:, :columns] * np.float32(magnitude)).copy()


def slow(blob: Blob) -> Floats:
    header = blob.header
    return slow_sparse(header.rows, header.columns, header.flags, header.scale, bytes(blob.payload))


@pytest.mark.parametrize("name", ["bitnet-1.25bit", "bitnet-1.25bit-row"])
@pytest.mark.parametrize("shape", SHAPES)
def test_decode_is_the_slow_reference(name, shape):
    codec = codec_by_name(name)
    blob = codec.encode(gaussian(*shape, seed=shape[1]))
    assert codec_for(blob.header).name == name
    assert 8 * len(blob.to_bytes()) / (shape[0] * shape[1]) == codec.bits_per_weight(*shape)
    decoded = codec.decode(blob)
    np.testing.assert_array_equal(decoded, slow(blob))
    for begin in range(0, shape[0], 16):  # ranges begin in the middle of a strip of 32
        np.testing.assert_array_equal(codec.decode_rows(blob, begin, shape[0]), decoded[begin:])


def test_each_group_loses_its_smallest_weight():
    weight = gaussian(40, 172)
    codec = SparseTernaryCodec()
    t = np.sign(codec.decode(codec.encode(weight))).reshape(40, -1, 4)
    groups = np.abs(weight).reshape(40, -1, 4)
    np.testing.assert_array_equal(t == 0, groups == groups.min(axis=2, keepdims=True))
    np.testing.assert_array_equal(t[t != 0], np.sign(weight).reshape(t.shape)[t != 0])


def test_ties_and_kept_zeros():
    weight = np.array([[2, -2, 2, -2, 0, 0, -3, 0, 5, -1, 1, -1]], np.float32)
    blob = SparseTernaryCodec().encode(weight)
    # the lowest column of a tie becomes 0; zeros that must be kept become +s; s = (2 + 2 + 2 + 3 + 5 + 1 + 1) / 9
    assert blob.header.scale == np.float32(16 / 9)
    decoded = SparseTernaryCodec().decode(blob) / np.float32(16 / 9)
    assert decoded.tolist() == [[0, -1, 1, -1, 0, 1, -1, 1, 1, 0, 1, -1]]


@pytest.mark.parametrize("row_scales", [False, True])
def test_the_scale_is_that_of_least_squares(row_scales):
    weight = gaussian(33, 130) * np.linspace(0.1, 3, 33, dtype=np.float32)[:, None]
    codec = SparseTernaryCodec(row_scales)
    decoded = codec.decode(codec.encode(weight)).astype(np.float64)
    parts = list(zip(weight, decoded, strict=True)) if row_scales else [(weight, decoded)]
    for w, w2 in parts:
        assert np.vdot(w, w2) == pytest.approx(np.vdot(w2, w2), rel=1e-6)  # d/ds ||w - s t||^2 = 0


@pytest.mark.parametrize("shape", SHAPES)
def test_a_matrix_of_that_structure_is_exact(shape):
    for magnitude in (1.0, 0.037, 1e-30):
        weight = structured(*shape, magnitude)
        for codec in (SparseTernaryCodec(exact=True), SparseTernaryCodec(True, exact=True)):
            np.testing.assert_array_equal(codec.decode(codec.encode(weight)), weight)
    rows = structured(*shape, 1.0) * np.linspace(0, 0.3, shape[0], dtype=np.float32)[:, None]  # and a row of zeros
    codec = SparseTernaryCodec(row_scales=True, exact=True)
    np.testing.assert_array_equal(codec.decode(codec.encode(rows)), rows)


def test_exact_refuses_what_it_would_change():
    weight = structured(40, 64, 0.5)
    codec = SparseTernaryCodec(exact=True)
    for row, column, value in ((39, 7, 0.25), (0, 0, 1.0)):
        other = weight.copy()
        other[row, column] = value
        with pytest.raises(ValueError, match="one zero in every four columns"):
            codec.encode(other)
    two_zeros = weight.copy()
    two_zeros[5, 8:12] = [0.5, 0, 0, -0.5]
    with pytest.raises(ValueError, match="use the recipe bitnet"):
        codec.encode(two_zeros)


def test_the_bytes_are_the_same_for_many_chunks():
    """A matrix of several chunks of rows and two tiles of columns against its strips one by one."""
    columns = 1700
    rows = 3 * chunk_rows(columns) + 5
    weight = structured(rows, columns, 0.25)
    whole = SparseTernaryCodec().encode(weight)
    np.testing.assert_array_equal(SparseTernaryCodec().decode(whole), weight)
    payload = bytes(whole.payload)
    strips, sizes = -(-rows // 32), (128 + 50 * 160, 128 + 4 * 160)
    for strip in range(0, strips, 3):
        own = bytes(SparseTernaryCodec().encode(weight[32 * strip : 32 * strip + 32]).payload)
        assert payload[strip * sizes[0] :][: sizes[0]] == own[: sizes[0]]
        assert payload[strips * sizes[0] + strip * sizes[1] :][: sizes[1]] == own[sizes[0] :]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row_scales", [False, True])
def test_values_that_are_not_finite_are_refused(row_scales, value):
    weight = gaussian(40, 20)
    weight[33, 17] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        SparseTernaryCodec(row_scales).encode(weight)


def test_size_and_error_on_gaussian_weights():
    codec = SparseTernaryCodec()
    weight = gaussian(512, 1600)
    assert codec.bits_per_weight(*weight.shape) == pytest.approx(1.27, abs=2e-3)
    assert codec.encode_stream(ArraySource(weight), lambda piece: None).relative_error == pytest.approx(0.285, abs=3e-3)


# ---- bundles ----


def logits(weights: Path, kernels: str | None = None, threads: int = 1, chunk: int = 64) -> Floats:
    ids = np.random.default_rng(3).integers(0, 512, 75).astype(np.int32)
    with (
        Model(weights, kernels) as model,
        model.session(context=80, threads=threads, prefill_chunk=chunk) as session,
    ):
        return session.feed(ids).copy()


@pytest.fixture(scope="module")
def wiki(tmp_path_factory) -> Path:
    """weights.ptd of the example model at 1.25 bits: no runner is needed for what follows."""
    out = tmp_path_factory.mktemp("wiki") / "weights.ptd"
    records = build_weights(EXAMPLE, "bitnet-1.25bit", out)
    body = [record for record in records if record.name.startswith("layers.") and record.rows > 1]
    assert {record.codec for record in body} == {"bitnet-1.25bit"}
    assert {record.codec for record in records if record.name == "embedding.weight"} == {"affine-4bit"}
    assert all(0.2 < record.relative_error < 0.45 for record in body)
    return out


def test_every_order_of_feeding_gives_the_same_bits(wiki):
    """Prefill in any chunks, decode, one thread or three, scalar or SIMD: the same logits, bit for bit."""
    expected = logits(wiki, "scalar")
    assert np.isfinite(expected).all()
    for threads, chunk in ((1, 64), (3, 7), (2, 75), (2, 1)):
        np.testing.assert_array_equal(logits(wiki, None, threads, chunk), expected)


@pytest.mark.parametrize("name", ["llama-untied-biases", "mistral", "qwen2", "qwen3"])
def test_tiny_checkpoints(tmp_path, name):
    """Feed-forward of 172 columns: blocks that are not full."""
    write_tiny(tmp_path, name)
    build_weights(tmp_path, "bitnet-1.25bit", tmp_path / "weights.ptd")
    expected = logits(tmp_path / "weights.ptd", "scalar")
    np.testing.assert_array_equal(logits(tmp_path / "weights.ptd", chunk=32), expected)
    np.testing.assert_array_equal(logits(tmp_path / "weights.ptd", chunk=1), expected)


def test_a_ternary_model_of_that_structure_computes_as_in_two_bits(tmp_path):
    """The same integers and scales, so the same logits as `bitnet` gives, bit for bit; any other is refused."""
    write_tiny(tmp_path, "bitnet")
    for jobs in (None, 2):  # threads of this process, and processes that know a codec by its name alone
        for recipe in ("bitnet-1.25bit", "bitnet-1.25bit+entropy"):
            with pytest.raises(UserError, match=r"cannot code tensor model\.layers.*_proj.*use the recipe bitnet"):
                build_weights(tmp_path, recipe, tmp_path / "refused.ptd", jobs=jobs)
            assert not (tmp_path / "refused.ptd").exists()
    tensors = load_file(tmp_path / "model.safetensors")
    for seed, (name, value) in enumerate(tensors.items()):
        if name.endswith("_proj.weight"):
            tensors[name] = structured(*value.shape, 0.05 + 0.001 * seed, seed)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    sizes = {}
    for recipe in ("bitnet", "bitnet-1.25bit"):
        records = build_weights(tmp_path, recipe, tmp_path / f"{recipe}.ptd")
        sizes[recipe] = sum(record.bytes for record in records if record.codec == recipe)
        assert all(record.relative_error == 0 for record in records if record.codec == recipe)
    assert 0 < sizes["bitnet-1.25bit"] < sizes["bitnet"]
    np.testing.assert_array_equal(logits(tmp_path / "bitnet-1.25bit.ptd"), logits(tmp_path / "bitnet.ptd"))


@pytest.mark.slow
@pytest.mark.parametrize("machine", [name for name in machines.MACHINES if name != "x86_64 avx2"])
def test_every_instruction_set_gives_the_same_tokens(bundle, machine):
    directory = bundle("bitnet-1.25bit")
    for prompt in machines.PROMPTS[:2]:
        expected = machines.tokens(directory, "x86_64 avx2", prompt, "int8")
        assert machines.tokens(directory, machine, prompt, "int8") == expected
