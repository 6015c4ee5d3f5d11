"""Matrices that lie on the grid of a packed format are found, and a default build stores them without loss."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.codecs import ArraySource, Stats, codec_by_name, codec_for, codec_names
from mobile_bundle.codecs.affine_exact import fit_exact
from mobile_bundle.codecs.grids import find_grid
from mobile_bundle.codecs.raw import from_bfloat16, to_bfloat16
from mobile_bundle.container import WeightsReader
from mobile_bundle.models import names, open_model
from mobile_bundle.models.config import Config
from mobile_bundle.models.registry import ARCHITECTURES
from numpy.typing import NDArray
from safetensors.numpy import save_file
from support.builds import bundle

Floats = NDArray[np.float32]
AFFINE = [
    f"affine-{bits}bit-g{group}-{kind}"
    for bits in (2, 3, 4, 5, 6, 8)
    for group in (32, 64, 128)
    for kind in ("sym", "asym")
]
GRIDS = [
    "bitnet-1.25bit", "bitnet-1.25bit-row", "bitnet", "bitnet-row", "sign-1bit", "sign-1bit-g64", "sign-1bit-g32",
    *AFFINE,
]  # fmt: skip


def on_grid(name: str, rows: int, columns: int, generator: np.random.Generator) -> Floats:
    """A matrix that the codec of that name holds exactly, and none that is smaller."""
    if name.startswith("bitnet"):
        t = generator.integers(-1, 2, (rows, columns))
        if "1.25" in name:
            t = generator.choice([-1, 1], (rows, columns // 4, 4))
            np.put_along_axis(t, generator.integers(0, 4, (rows, columns // 4, 1)), 0, axis=2)
            t = t.reshape(rows, columns)
        scale = generator.uniform(0.01, 0.03, (rows if name.endswith("-row") else 1, 1))
        return (t * scale.astype(np.float32)).astype(np.float32)
    codec = codec_by_name(name)
    groups = -(-columns // codec.group)

    def by_group(values: NDArray[np.float64]) -> Floats:
        return np.repeat(values.astype(np.float16).astype(np.float32), codec.group, axis=1)[:, :columns]

    d = by_group(generator.uniform(500, 2000, (rows, groups)) * generator.choice([-1, 1], (rows, groups)))
    power = np.float32(2.0**-20)
    if name.startswith("sign"):
        return d * generator.choice([-1, 1], (rows, columns)).astype(np.float32) * power
    bits, asymmetric = int(name[7]), name.endswith("-asym")
    low = -127 if bits == 8 else 0 if asymmetric else -(1 << (bits - 1))
    high = 127 if bits == 8 else low + (1 << bits) - 1
    # Not every level is used, neither by every group nor, at 4 bits and more, by any: the ends least.
    used = 1 if bits > 3 else 0
    codes = generator.integers(low + 2 * used, high - used + 1, (rows, columns)).astype(np.float32)
    values = codes * d
    if asymmetric:
        values = values + by_group(generator.normal(0, 2000, (rows, groups)))
    return (values / np.float32(2 if bits == 8 else 1) * power).astype(np.float32)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("columns", [256, 224])
def test_the_smallest_format_that_holds_a_matrix_is_found(name: str, columns: int) -> None:
    weight = on_grid(name, 33, columns, np.random.default_rng(columns))
    if "1.25" not in name:  # an embedding's first rows are often empty
        weight[:3] = 0
    found = find_grid(ArraySource(weight))
    assert found is not None
    np.testing.assert_array_equal(found.decode(found.encode(weight)), weight)
    # Where padding makes another format smaller that holds it too, that one is right.
    assert found.blob_bytes(33, columns) <= codec_by_name(name).blob_bytes(33, columns)
    if columns == 256:
        assert found.name == codec_by_name(name).name or found.blob_bytes(33, 256) == codec_by_name(name).blob_bytes(
            33, 256
        )
    for other in {*codec_names(), *GRIDS} - {found.name}:
        codec = codec_by_name(other)
        if codec.format < 32 and codec.blob_bytes(33, columns) < found.blob_bytes(33, columns):
            assert (codec.decode(codec.encode(weight)) != weight).any(), f"{other} is smaller"


@pytest.mark.parametrize("name", ["affine-2bit-g128-sym", "affine-4bit-g32-asym", "affine-6bit-g64-sym"])
def test_calibration_loses_nothing_on_a_grid(name: str) -> None:
    generator = np.random.default_rng(4)
    weight = on_grid(name, 33, 224, generator)
    inputs = generator.standard_normal((500, 224)).astype(np.float32)
    codec = codec_by_name(name)
    blob = codec.encode(weight, Stats(hessian=inputs.T @ inputs / np.float32(500)))
    np.testing.assert_array_equal(codec.decode(blob), weight)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_every_group_on_a_grid_is_found(bits: int, asymmetric: bool) -> None:
    """Few levels, one level, common factors of the codes, offsets far larger and far smaller than the steps."""
    generator = np.random.default_rng(bits)
    low = -127 if bits == 8 else 0 if asymmetric else -(1 << (bits - 1))
    high = 127 if bits == 8 else low + (1 << bits) - 1
    count = 3000
    codes = generator.integers(low, high + 1, (count, 32))
    codes[:500] = generator.integers(low, high + 1, (500, 1))  # constant
    codes[500:1000] = np.where(generator.random((500, 32)) < 0.9, 0, generator.integers(low, high + 1, (500, 1)))
    codes[1000:1500] = np.clip(generator.integers(-1, 2, (500, 32)) * 6, low, high)
    d = (generator.uniform(1, 2**14 / (high - low), count) * generator.choice([-1, 1], count)).astype(np.float16)
    m = (generator.uniform(-1, 1, count) * 10 ** generator.uniform(-3, 4, count)).astype(np.float16)
    w = codes.astype(np.float32) * d.astype(np.float32)[:, None]
    if asymmetric:
        w = w + m.astype(np.float32)[:, None]
    exact = fit_exact(w, low, high, asymmetric)
    assert exact.found.all()
    back = exact.codes * exact.d.astype(np.float32)[:, None]
    if asymmetric:
        back = back + exact.m.astype(np.float32)[:, None]
    np.testing.assert_array_equal(back, w)
    assert exact.codes.min() >= low
    assert exact.codes.max() <= high


@pytest.mark.parametrize("rounded", [lambda w: w, lambda w: w.astype(np.float16).astype(np.float32),
                                     lambda w: from_bfloat16(to_bfloat16(w))])  # fmt: skip
def test_ordinary_weights_are_on_no_grid(rounded: Callable[[Floats], Floats]) -> None:
    generator = np.random.default_rng(0)
    assert find_grid(ArraySource(rounded((generator.standard_normal((64, 256)) * 0.02).astype(np.float32)))) is None
    quantised = on_grid("affine-4bit-g32-sym", 64, 256, generator)
    if rounded(quantised) is not quantised:  # the products were rounded: no longer d * code
        assert find_grid(ArraySource(from_bfloat16(to_bfloat16(quantised)))) is None


@pytest.mark.slow
def test_one_weight_off_the_grid_counts() -> None:
    weight = on_grid("affine-2bit-g128-sym", 300, 1024, np.random.default_rng(0))
    assert find_grid(ArraySource(weight)) is not None
    weight[299, 1000] *= np.float32(1.01)
    assert find_grid(ArraySource(weight)) is None


def test_zeros_are_left_to_the_recipe() -> None:
    assert find_grid(ArraySource(np.zeros((40, 64), np.float32))) is None


def checkpoint(directory: Path, make: Callable[[str, int, int], Floats], dtype: str = "float32") -> Path:
    """A small Llama. make(name, rows, columns) gives its matrices."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 300, "hidden_size": 128,
        "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "tie_word_embeddings": False,
    }  # fmt: skip
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config), "utf-8")
    spec = ARCHITECTURES["LlamaForCausalLM"](Config(config))
    tensors = {}
    for tensor in names.tensors(spec, "model."):
        if tensor.role == "vector" and tensor.source:
            tensors[tensor.source] = np.ones(tensor.columns, np.float32)
        elif tensor.source:
            tensors[tensor.source] = make(tensor.name, tensor.rows, tensor.columns).astype(dtype)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


@pytest.mark.parametrize("name", [*GRIDS[:7], "affine-2bit-g128-sym", "affine-2bit-g32-asym", "affine-4bit-g32-asym",
                                  "affine-4bit-g64-sym", "affine-8bit-g32-sym", "affine-8bit-g128-asym"])  # fmt: skip
def test_a_default_build_gives_the_weights_back(name: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    model_dir = checkpoint(tmp_path / "m", lambda _, rows, columns: on_grid(name, rows, columns, generator))
    manifest = bundle(model_dir, tmp_path / "x.mbundle")
    codec = codec_by_name(name)
    line = f"9 matrices lie on the grid of a packed format and are stored without loss: 9 as {codec.name}"
    assert line in manifest["notes"]
    assert manifest["recipe"] == "exact"
    with open_model(model_dir) as model, WeightsReader(tmp_path / "x.mbundle/weights.ptd") as weights:
        for tensor in model.tensors:
            blob = weights.blob(tensor.name)
            decoded = codec_for(blob.header).decode(blob)
            np.testing.assert_array_equal(decoded, np.concatenate(list(model.source(tensor).chunks(64))))
            if tensor.role != "vector":
                assert len(blob.to_bytes()) == codec.blob_bytes(tensor.rows, tensor.columns)


def test_the_other_matrices_follow_the_default_recipe(tmp_path: Path) -> None:
    """Ternary rows as TriLM has them, in fp16, with an embedding and a head of ordinary weights."""
    generator = np.random.default_rng(2)

    def make(name: str, rows: int, columns: int) -> Floats:
        if not name.startswith("layers."):
            return (generator.standard_normal((rows, columns)) * 0.02).astype(np.float32)
        scale = generator.uniform(0.01, 0.03, (rows, 1)).astype(np.float16).astype(np.float32)
        return generator.integers(-1, 2, (rows, columns)).astype(np.float32) * scale

    model_dir = checkpoint(tmp_path / "m", make, "float16")
    manifest = bundle(model_dir, tmp_path / "x.mbundle")
    assert manifest["recipe"] == "exact+affine-4bit"
    codecs = {tensor["name"]: (tensor["codec"], tensor["relative_error"]) for tensor in manifest["tensors"]}
    assert codecs["layers.0.mlp.down.weight"] == ("bitnet-row", 0)
    assert codecs["embedding.weight"][0] == "affine-4bit"
    assert codecs["embedding.weight"][1] > 0
    named = bundle(model_dir, tmp_path / "y.mbundle", "affine-4bit")  # a recipe that is asked for is followed
    assert {tensor["codec"] for tensor in named["tensors"]} == {"affine-4bit", "f32"}
    larger = bundle(model_dir, tmp_path / "z.mbundle", "raw")
    hint = "lies on the grid of affine-2bit-g128-sym: a build without a recipe stores such matrices without loss"
    assert any(hint in note for note in larger["notes"])
    assert not any("without a recipe" in note for note in manifest["notes"])


def test_one_magnitude_per_tensor_in_bfloat16_is_found(tmp_path: Path) -> None:
    """Falcon-E's bfloat16 revision."""
    generator = np.random.default_rng(3)
    weight = on_grid("bitnet", 96, 160, generator)
    found = find_grid(ArraySource(from_bfloat16(to_bfloat16(weight))))
    assert found is not None
    assert found.name == "bitnet"
