"""The download form: what comes out of the ZIP is the bundle, and what is damaged is refused."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.container.flat_tensor import SEGMENT_ALIGNMENT
from mobile_bundle.container.manifest import read_manifest
from mobile_bundle.container.verify import verify_bundle
from mobile_bundle.errors import UserError
from mobile_bundle.native.engine import Model
from mobile_bundle.native.programs import runner_paths
from mobile_bundle.pack import Packed, pack_bundle

RECIPES = ["affine-4bit", "bitnet", "vptq-2bit"]
RUNNER = "bin/x86_64/mobile-run"


def pack(bundle: Path, target: Path, **options) -> Packed:
    return pack_bundle(bundle, target, progress=lambda *_: None, **options)


def unpack(packed: Path, target: Path) -> Path:
    """As any ZIP tool would, which checks every entry's CRC."""
    with zipfile.ZipFile(packed) as file:
        file.extractall(target)
    return target


def install(directory: Path) -> subprocess.CompletedProcess[str]:
    """By the runner, as a phone does it after unpacking."""
    return subprocess.run(
        [runner_paths()["x86_64"], "install", directory, "--json"], capture_output=True, text=True, timeout=120
    )


def logits(directory: Path) -> np.ndarray:
    with Model(directory) as model, model.session(64) as session:
        return session.feed(np.arange(5, 25, dtype=np.int32)).copy()


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_comes_out_computes_the_same(bundle: Callable[..., Path], tmp_path: Path, recipe: str) -> None:
    original = bundle(recipe)
    packed = pack(original, tmp_path / "x.mbundle.zip")
    assert packed.bytes == (tmp_path / "x.mbundle.zip").stat().st_size
    out = unpack(tmp_path / "x.mbundle.zip", tmp_path / "out.mbundle")
    assert read_manifest(out) == packed.manifest
    verify_bundle(out)
    process = install(out)
    assert process.returncode == 0, process.stdout
    assert json.loads(process.stdout.splitlines()[-1])["event"] == "installed"
    assert (out / "weights.cache").exists()
    verify_bundle(out)
    np.testing.assert_array_equal(logits(original), logits(out))


@pytest.mark.full
@pytest.mark.parametrize("recipe", RECIPES)
def test_coded_weights_are_what_the_builder_codes(bundle: Callable[..., Path], tmp_path: Path, recipe: str) -> None:
    """Packing and building with +entropy are two ways to one bundle, manifest and predictions included."""
    built = bundle(f"{recipe}+entropy")
    packed = pack(bundle(recipe), tmp_path / "x.mbundle.zip", abis=["arm64-v8a", "armeabi-v7a", "x86_64"])
    out = unpack(tmp_path / "x.mbundle.zip", tmp_path / "out.mbundle")
    assert (out / "weights.ptd").read_bytes() == (built / "weights.ptd").read_bytes()
    expected = read_manifest(built)
    for manifest in (packed.manifest, expected):
        manifest.pop("created", None)
        for tensor in manifest["tensors"]:
            tensor.pop("relative_error", None)
    assert packed.manifest == expected


def test_the_zip_itself(bundle: Callable[..., Path], tmp_path: Path) -> None:
    """The manifest comes first, the weights last and where a program can map them; no byte depends on the day."""
    target = tmp_path / "x.mbundle.zip"
    pack(bundle("affine-4bit"), target, abis=["x86_64"])
    first = target.read_bytes()
    pack(bundle("affine-4bit"), target, abis=["x86_64"])
    assert target.read_bytes() == first
    with zipfile.ZipFile(target) as file:
        assert file.testzip() is None
        assert file.namelist() == ["manifest.json", RUNNER, "tokenizer.bin", "weights.ptd"]
        weights = file.getinfo("weights.ptd")
        assert weights.compress_type == zipfile.ZIP_STORED
        name_bytes, extra_bytes = np.frombuffer(first, "<u2", 2, weights.header_offset + 26).tolist()
        begin = weights.header_offset + 30 + name_bytes + extra_bytes
        assert begin % SEGMENT_ALIGNMENT == 0
        assert first[begin : begin + weights.file_size] == file.read("weights.ptd")
        assert file.getinfo(RUNNER).external_attr >> 16 & 0o777 == 0o755
        assert file.getinfo("tokenizer.bin").external_attr >> 16 & 0o777 == 0o644


def test_weights_as_they_are(bundle: Callable[..., Path], tmp_path: Path) -> None:
    """When asked, and where coding gains nothing: there the reason is given."""
    original = bundle("affine-4bit")
    pack(original, tmp_path / "x.mbundle.zip", entropy=False)
    out = unpack(tmp_path / "x.mbundle.zip", tmp_path / "out.mbundle")
    assert (out / "weights.ptd").read_bytes() == (original / "weights.ptd").read_bytes()
    assert read_manifest(out)["recipe"] == "affine-4bit"
    assert not (out / "bin").exists()
    verify_bundle(out)
    coded = pack(bundle("affine-4bit+entropy"), tmp_path / "y.mbundle.zip")
    assert "less than 1 %" in coded.note
    assert coded.manifest["recipe"] == "affine-4bit+entropy"
    with_program = pack(bundle("affine-4bit", formats=("native", "onnx")), tmp_path / "z.mbundle.zip")
    assert "model.onnx" in with_program.note
    verify_bundle(unpack(tmp_path / "z.mbundle.zip", tmp_path / "program.mbundle"))


def test_damage_on_the_way_is_found(bundle: Callable[..., Path], tmp_path: Path) -> None:
    target = tmp_path / "x.mbundle.zip"
    pack(bundle("affine-4bit"), target)
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1  # in the weights
    target.write_bytes(data)
    with pytest.raises(zipfile.BadZipFile, match=r"weights\.ptd"):
        unpack(target, tmp_path / "checked.mbundle")
    target.write_bytes(data[: len(data) // 2])
    with pytest.raises(zipfile.BadZipFile):
        unpack(target, tmp_path / "cut.mbundle")


def test_damage_that_a_zip_tool_let_pass_is_found(bundle: Callable[..., Path], tmp_path: Path) -> None:
    """The runner decodes nothing that is not whole, and leaves no cache."""
    target = tmp_path / "x.mbundle.zip"
    pack(bundle("affine-4bit"), target)
    out = unpack(target, tmp_path / "out.mbundle")
    weights = bytearray((out / "weights.ptd").read_bytes())
    weights[len(weights) // 2] ^= 1
    (out / "weights.ptd").write_bytes(weights)
    process = install(out)
    assert process.returncode == 1
    error = json.loads(process.stdout.splitlines()[-1])
    assert error["event"] == "error"
    assert error["kind"] == "format"
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "tokenizer.bin", "weights.ptd"]
    with pytest.raises(UserError, match=r"weights\.ptd"):
        verify_bundle(out)


def test_a_bundle_that_is_not_whole_is_refused(bundle: Callable[..., Path], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.mbundle"
    shutil.copytree(bundle("affine-4bit"), damaged)
    (damaged / "tokenizer.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"tokenizer\.bin"):
        pack(damaged, tmp_path / "x.mbundle.zip")
    without = bundle("affine-4bit", formats=("onnx",))
    with pytest.raises(UserError, match="no runner for arm64-v8a"):
        pack(without, tmp_path / "x.mbundle.zip", abis=["arm64-v8a"])
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.mbundle"]


def command(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "mobile_bundle.cli.main", "pack", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, **options)


def test_a_full_disk_leaves_what_was_there(bundle: Callable[..., Path], tmp_path: Path) -> None:
    target = tmp_path / "x.mbundle.zip"
    target.write_text("an older one")
    process = command(
        bundle("affine-4bit"), "-o", target,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )  # fmt: skip
    assert process.returncode == 1
    assert "no room for" in process.stderr.splitlines()[-1]
    assert target.read_text() == "an older one"
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_the_command(bundle: Callable[..., Path], tmp_path: Path) -> None:
    target = tmp_path / "x.mbundle.zip"
    process = command(bundle("affine-4bit"), "-o", target)
    assert process.returncode == 0, process.stderr
    assert "affine-4bit+entropy" in process.stdout.splitlines()[-1]
    said = json.loads(command(bundle("affine-4bit"), "-o", target, "--json", "--no-entropy").stdout)
    assert said["bytes"] == target.stat().st_size
    assert [entry["name"] for entry in said["entries"]] == ["manifest.json", "tokenizer.bin", "weights.ptd"]
    refused = command(bundle("affine-4bit"), "-o", tmp_path / "x.zip")
    assert refused.returncode == 1
    assert "must end in .mbundle.zip" in refused.stderr
