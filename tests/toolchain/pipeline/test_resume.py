"""A build that goes on knows the checkpoint by its content, and the tool by everything that codes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mobile_bundle
import numpy as np
import pytest
from mobile_bundle.errors import UserError
from mobile_bundle.models import open_model
from mobile_bundle.native.library import library_path
from mobile_bundle.pipeline.parts import finished_parts, parts_directory
from mobile_bundle.pipeline.pool import PartPool
from mobile_bundle.pipeline.weights import build_weights, write_weights
from mobile_bundle.planning.assignment import assign_codecs
from mobile_bundle.planning.recipe import resolve_recipe
from support.checkpoints import pack_bitnet, write_tiny
from support.paths import EXAMPLE

RECIPE = "affine-4bit"
TENSORS = 57
BUILD = [sys.executable, "-m", "mobile_bundle.cli.build"]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return shutil.copytree(EXAMPLE, tmp_path / "model")


def rewrite(checkpoint: Path, names: list[str], rows: slice = slice(None), in_place: bool = False) -> None:
    """Other weights under the same name, size and date, as `cp -p` or `rsync -t` leave them: signs of whole rows of the
    tensors of those names are turned."""
    file = checkpoint / "model.safetensors"
    status = file.stat()
    data = bytearray(file.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for name in names:
        begin, end = header[name]["data_offsets"]
        bits = np.frombuffer(data, np.uint16)[(8 + length + begin) // 2 : (8 + length + end) // 2]
        bits.reshape(header[name]["shape"])[rows] ^= 0x8000
        del bits
    if in_place:
        with open(file, "r+b") as target:
            target.write(data)
    else:
        other = file.with_suffix(".new")
        other.write_bytes(data)
        os.replace(other, file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


def kept_by_the_next(checkpoint: Path, parts: Path) -> int:
    """Builds and leaves the parts; how many of those that were there it took."""
    with open_model(checkpoint) as model:
        assignment = assign_codecs(model.tensors, model.spec, resolve_recipe(RECIPE, model.spec, model.tensors))
        with PartPool(model, parts, jobs=1) as pool:
            write_weights(pool, model.spec, assignment, parts.with_name("w"))
            return pool.kept


UP = "model.layers.3.mlp.up_proj.weight"


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("rows", [slice(None), slice(411, 412)], ids=["all rows", "one row"])
def test_a_tensor_that_changed_is_coded_again_and_it_alone(
    checkpoint: Path, tmp_path: Path, rows: slice, in_place: bool
) -> None:
    assert kept_by_the_next(checkpoint, tmp_path / "parts") == 0
    assert kept_by_the_next(checkpoint, tmp_path / "parts") == TENSORS
    rewrite(checkpoint, [UP], rows, in_place)
    assert kept_by_the_next(checkpoint, tmp_path / "parts") == TENSORS - 1
    build_weights(checkpoint, RECIPE, tmp_path / "fresh", jobs=1)
    assert digest(tmp_path / "w") == digest(tmp_path / "fresh")


def test_the_same_content_is_the_same_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    """Wherever it lies and whatever its date."""
    assert kept_by_the_next(checkpoint, tmp_path / "parts") == 0
    os.utime(checkpoint / "model.safetensors")
    assert kept_by_the_next(checkpoint, tmp_path / "parts") == TENSORS
    checkpoint.rename(tmp_path / "elsewhere")
    assert kept_by_the_next(tmp_path / "elsewhere", tmp_path / "parts") == TENSORS


def test_scales_of_a_ternary_checkpoint_count(tmp_path: Path) -> None:
    """They lie in tensors of their own beside the packed weights."""
    safetensors = pytest.importorskip("safetensors.numpy")
    pytest.importorskip("transformers")
    packed = pack_bitnet(write_tiny(tmp_path / "tiny", "bitnet"), tmp_path / "packed")

    def kept() -> int:
        with open_model(packed) as model, PartPool(model, tmp_path / "parts", jobs=1) as pool:
            for tensor in model.tensors:
                pool.submit(tensor, "f32" if tensor.role == "vector" else "raw").result()
            return pool.kept

    assert kept() == 0
    count = len(finished_parts(tmp_path / "parts"))
    assert kept() == count
    tensors = safetensors.load_file(packed / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight_scale"] *= 2
    safetensors.save_file(tensors, packed / "model.safetensors", {"format": "pt"})
    assert kept() == count - 1


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("what", ["other weights", "in place", "config.json"])
def test_a_checkpoint_that_changes_while_it_is_read(checkpoint: Path, tmp_path: Path, what: str, jobs: int) -> None:
    """The bundle would mix both; nothing comes of it, and the next build codes what has changed."""
    changed = []

    def change(done: int, total: int, name: str) -> None:
        if not changed:
            changed.append(name)
            if what == "config.json":
                config = checkpoint / "config.json"
                config.write_text(json.dumps({**json.loads(config.read_text()), "rms_norm_eps": 1e-3}))
            else:
                rewrite(checkpoint, [UP, "model.norm.weight"], in_place=what == "in place")

    with pytest.raises(UserError, match="changed while it was read; run the command again"):
        build_weights(checkpoint, RECIPE, tmp_path / "w", change, jobs)
    assert changed
    assert not (tmp_path / "w").exists()
    build_weights(checkpoint, RECIPE, tmp_path / "w", jobs=jobs)
    build_weights(checkpoint, RECIPE, tmp_path / "fresh", jobs=1)
    assert digest(tmp_path / "w") == digest(tmp_path / "fresh")


IDENTITY = "from mobile_bundle.pipeline.identity import tool_identity; print(tool_identity())"


@pytest.mark.full
def test_the_tool_is_known_by_all_that_codes(tmp_path: Path) -> None:
    """The C library, and every module, wherever it lies."""
    package = tmp_path / "mobile_bundle"
    shutil.copytree(Path(mobile_bundle.__path__[0]), package, ignore=shutil.ignore_patterns("bin", "__pycache__"))
    library = package / "lib" / library_path().name

    def identity() -> str:
        command = [sys.executable, "-B", "-c", IDENTITY]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "MOBILE_BUNDLE_LIBRARY": str(library)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    seen = {identity()}
    assert identity() in seen
    changes = [
        "native/search.py",
        "models/rope.py",
        "calibrate/walk.py",
        "pipeline/shared_codebooks.py",
        "codecs/vptq.py",
    ]
    for number, name in enumerate(changes):
        with open(package / name, "a") as file:
            file.write("\n")
        seen.add(identity())
        assert len(seen) == number + 2, name
    with open(library, "ab") as file:
        file.write(b"\0")
    seen.add(identity())
    assert len(seen) == len(changes) + 2


def test_a_bundle_goes_on_after_its_checkpoint_was_replaced(checkpoint: Path, tmp_path: Path) -> None:
    """By the command, killed in the middle."""
    out, parts = tmp_path / "o.mbundle", parts_directory(tmp_path / "o.mbundle")
    command = [*BUILD, checkpoint, "-o", out, "--recipe", "affine-3bit", "--jobs", "1"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(finished_parts(parts)) < 4:
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    with open_model(checkpoint) as model:
        names = [tensor.source for tensor in model.tensors if tensor.source]
    rewrite(checkpoint, names)
    for name in ("o.mbundle", "fresh.mbundle"):
        again = [*BUILD, checkpoint, "-o", tmp_path / name, "--recipe", "affine-3bit"]
        subprocess.run(list(map(str, again)), check=True, capture_output=True)
    assert digest(out / "weights.ptd") == digest(tmp_path / "fresh.mbundle/weights.ptd")
    assert not parts.exists()


def test_the_lock_of_a_build_that_has_just_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opened the lock file before it was removed must not take it for the lock."""
    with open_model(EXAMPLE) as model:
        first = PartPool(model, tmp_path / "parts", jobs=1)
        first.__enter__()
        real = fcntl.flock

        def late(descriptor: int, operation: int) -> None:
            monkeypatch.setattr(fcntl, "flock", real)
            first.__exit__(None, None, None)  # removes the lock file that the other one has open
            real(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", late)
        with (
            PartPool(model, tmp_path / "parts", jobs=1),
            pytest.raises(UserError, match="another build is writing"),
            PartPool(model, tmp_path / "parts", jobs=1),
        ):
            pass
