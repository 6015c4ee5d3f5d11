"""Sizes from hostile files: dimensions beyond the limits, session sizes that would wrap, blobs that overlap, gaps that
are not zero. All checksums are mended, so only the checks of sizes stand between these files and the engine."""

from __future__ import annotations

import json
import random
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from mobile_bundle.container import ContainerError, WeightsReader
from mobile_bundle.container.index import pack_index
from mobile_bundle.container.manifest import sha256
from mobile_bundle.container.verify import verify_bundle
from mobile_bundle.errors import UserError
from mobile_bundle.models import limits, open_model
from mobile_bundle.models.config import Config
from mobile_bundle.models.registry import ARCHITECTURES
from mobile_bundle.models.spec import ModelConfig
from mobile_bundle.native.engine import Model, estimate_memory
from mobile_bundle.native.programs import runner_paths
from mobile_bundle.pipeline.weights import build_weights
from support.checkpoints import write_tiny
from support.paths import EXAMPLE, ROOT

FIELDS = ("vocabulary", "hidden", "layers", "heads", "kv_heads", "head_dim", "feed_forward", "context")
"""Of mb_model_config, in its order behind the flags."""
GOOD = {"vocabulary": 100, "hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "feed_forward": 96,
        "context": 64}  # fmt: skip
BASE = 16384


def config_bytes(default_context: int | None = None, **sizes: int) -> bytes:
    """mb_model_config of these sizes, unchecked."""
    values = {**GOOD, **sizes}
    context = values["context"] if default_context is None else default_context
    head = struct.pack("<11IfiI8iI", 0, *(values[field] for field in FIELDS), 0, 1, 1e-5, -1, 0, *[0] * 8, context)
    return head.ljust(256, b"\0")


def test_the_toolchain_has_the_runtime_s_limits() -> None:
    header = (ROOT / "runtime/include/mobile_bundle/weights_index.h").read_text()
    most = {
        name: eval(value.replace("u", ""))
        for name, value in re.findall(r"#define MB_MOST_(\w+) +(\(?[\d<u ]+\)?)", header)
    }
    assert most.pop("ATTENTION") == limits.MOST_ATTENTION
    assert most.pop("SHARED_HEADS") == limits.MOST_SHARED_HEADS
    assert most.pop("TENSORS") == limits.MOST_TENSORS
    assert most.pop("INDEX_BYTES") == limits.MOST_INDEX_BYTES
    assert most.pop("NAME_BYTES") == limits.MOST_NAME_BYTES
    assert most.pop("TAPS") == limits.MOST_TAPS
    theirs = {name.lower(): value for name, value in most.items()}
    assert {**theirs, "kv_heads": theirs["heads"]} == limits.MOST


def beyond(field: str) -> list[bytes]:
    """Configs with one size that cannot be."""
    most = limits.MOST[field]
    return [config_bytes(**{field: value}) for value in (0, most + 1, most + 2, 1 << 28, 1 << 31, (1 << 32) - 1)]


@pytest.mark.parametrize("field", FIELDS)
def test_an_impossible_size_is_named_with_its_limit(field: str) -> None:
    for config in beyond(field):
        value = dict(zip(FIELDS, struct.unpack_from("<8I", config, 4), strict=True))[field]
        for read in (estimate_memory, ModelConfig.parse):
            with pytest.raises((UserError, ValueError), match=f"{field} is {value}: 1 to {limits.MOST[field]} "):
                read(config)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"heads": 1024, "kv_heads": 1024, "head_dim": 66}, r"heads \* head_dim is 67584: 65536 at most"),
        ({"heads": 5, "kv_heads": 2}, "heads is 5, kv_heads 2"),
        ({"heads": 4, "kv_heads": 8}, "heads is 4, kv_heads 8"),
        ({"heads": 258, "kv_heads": 2}, "1 to 128 times"),
        ({"head_dim": 15}, "head_dim is 15: it must be even"),
    ],
)
def test_sizes_that_do_not_go_together(sizes: dict[str, int], words: str) -> None:
    for read in (estimate_memory, ModelConfig.parse):
        with pytest.raises((UserError, ValueError), match=words):
            read(config_bytes(**sizes))


def test_a_default_context_that_cannot_be() -> None:
    for context in (0, 65, (1 << 24) + 1, (1 << 32) - 1):
        with pytest.raises(UserError, match=f"default_context is {context}"):
            estimate_memory(config_bytes(default_context=context))


def test_an_estimate_never_wraps() -> None:
    """Any config: an error, or what exact arithmetic gives."""
    generator = random.Random(1)

    def number(most: int) -> int:
        edges = [1, 2, 128, most - 1, most, most + 1, 1 << 28, (1 << 32) - 1, generator.randrange(1, most + 1)]
        return generator.choice(edges)

    estimated = 0
    for _ in range(3000):
        sizes = {field: number(limits.MOST[field]) for field in FIELDS}
        if generator.random() < 0.9:
            sizes["heads"] = sizes["kv_heads"]
        if generator.random() < 0.9:
            sizes["head_dim"] = min(sizes["head_dim"], limits.MOST_ATTENTION // max(sizes["heads"], 1)) // 2 * 2
        kv_type = generator.choice(("int8", "k8v4", "int4", "f16"))
        try:
            memory = estimate_memory(config_bytes(**sizes), threads=2, kv_type=kv_type)
        except UserError:
            continue
        estimated += 1
        stride = -(-sizes["head_dim"] // 32) * 32
        whole, half = stride + stride // 16, stride // 2 + stride // 16
        both = {"int8": 2 * whole, "k8v4": whole + half, "int4": 2 * half, "f16": 4 * stride}[kv_type]
        per_token = sizes["layers"] * sizes["kv_heads"] * both
        assert memory.kv_bytes_per_token == per_token
        room = sizes["context"] if kv_type == "f16" else -(-sizes["context"] // 16) * 16
        kept = per_token * room
        if kv_type == "int4":
            fine, coarse = min(room, 192), max((sizes["context"] - 1 - 32) // 64 * 64 - 64, 0)
            kept = sizes["layers"] * sizes["kv_heads"] * 2 * whole * fine + per_token * coarse
        assert 0 <= memory.kv_bytes - kept < 8 * 64
        assert 4 * 32 * sizes["feed_forward"] < memory.scratch_bytes < 1 << 50
    assert estimated > 100


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 65600),
        ("num_hidden_layers", 268435456),
        ("num_hidden_layers", 1025),
        ("num_attention_heads", 2048),
        ("num_key_value_heads", 4096),
        ("head_dim", 2048),
        ("intermediate_size", 1 << 19),
        ("max_position_embeddings", 1 << 25),
        ("vocab_size", 1 << 22),
    ],
)
def test_a_checkpoint_beyond_the_limits_is_refused_by_its_key(key: str, value: int) -> None:
    config = {**json.loads((EXAMPLE / "config.json").read_text()), key: value}
    with pytest.raises(UserError, match=f"{key} in config.json is {value}, not a whole number from 1 to"):
        ARCHITECTURES[config["architectures"][0]](Config(config))


def test_heads_times_head_dim_of_a_checkpoint() -> None:
    config = {**json.loads((EXAMPLE / "config.json").read_text()), "num_attention_heads": 1024, "head_dim": 128,
              "num_key_value_heads": 1024}  # fmt: skip
    with pytest.raises(UserError, match=r"num_attention_heads \(1024\) times head_dim \(128\)"):
        ARCHITECTURES[config["architectures"][0]](Config(config))


def test_no_weights_are_written_beyond_the_limits() -> None:
    from dataclasses import replace

    with open_model(EXAMPLE) as model:
        assert len(model.spec.to_config_bytes()) == 256
        with pytest.raises(UserError, match="feed_forward is 262145"):
            replace(model.spec, feed_forward=(1 << 18) + 1).to_config_bytes()
    with_name = [entry_of("n" * 257)]
    with pytest.raises(ContainerError, match="256 bytes, not 257"):
        pack_index(bytes(256), with_name, 1 << 20)


def entry_of(name: str):
    from mobile_bundle.codecs.blob import BlobHeader, Format
    from mobile_bundle.container.index import IndexEntry

    return IndexEntry(name, 1 << 14, BlobHeader(Format.F32, 1, 4))


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole weights.ptd."""
    directory = tmp_path_factory.mktemp("weights")
    build_weights(write_tiny(directory / "m", "llama-untied-biases"), "affine-4bit", directory / "w.ptd")
    return (directory / "w.ptd").read_bytes()


class Weights:
    """The bytes of a weights.ptd to change; `mended` makes sizes and checksums right again."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        fields = struct.unpack_from("<8sIIQQ5I", data, BASE)
        self.count, self.index_bytes, self.records = fields[2], fields[3], BASE + fields[6]
        self.names = BASE + fields[7]

    def get(self, record: int, at: int, format: str) -> int:
        value: int = struct.unpack_from(format, self.data, self.records + 64 * record + at)[0]
        return value

    def set(self, record: int, at: int, format: str, value: int) -> None:
        struct.pack_into(format, self.data, self.records + 64 * record + at, value)

    def in_order(self) -> list[int]:
        return sorted(range(self.count), key=lambda record: self.get(record, 8, "<Q"))

    def mended(self) -> bytes:
        data = self.data
        for record in range(self.count):
            at, size = self.get(record, 8, "<Q"), self.get(record, 16, "<Q")
            if at + size <= len(data):
                self.set(record, 52, "<I", zlib.crc32(data[at : at + size]))
        struct.pack_into("<Q", data, 40, len(data) - BASE)
        struct.pack_into("<Q", data, BASE + 24, len(data))
        data[BASE + 48 : BASE + 52] = bytes(4)
        struct.pack_into("<I", data, BASE + 48, zlib.crc32(data[BASE : BASE + self.index_bytes]))
        return bytes(data)


def refused(path: Path, data: bytes) -> str:
    """Why the engine does not open it; the toolchain must not either."""
    path.write_bytes(data)
    with pytest.raises(UserError) as native:
        Model(path)
    with pytest.raises((ContainerError, ValueError)), WeightsReader(path) as reader:
        ModelConfig.parse(reader.config)
    return str(native.value)


def test_mending_alone_changes_nothing(good: bytes, tmp_path: Path) -> None:
    assert Weights(good).mended() == good
    path = tmp_path / "w.ptd"
    path.write_bytes(good)
    with Model(path) as model, model.session(context=8) as session:
        session.feed([1, 2, 3])


@pytest.mark.parametrize("field", FIELDS)
def test_a_file_with_an_impossible_size(good: bytes, tmp_path: Path, field: str) -> None:
    for value in (0, limits.MOST[field] + 1, (1 << 32) - 1):
        weights = Weights(good)
        struct.pack_into("<I", weights.data, BASE + 64 + 4 * (1 + FIELDS.index(field)), value)
        assert f"{field} is {value}: 1 to {limits.MOST[field]}" in refused(tmp_path / "w.ptd", weights.mended())


def test_overlapping_blobs(good: bytes, tmp_path: Path) -> None:
    """Each tensor in the place of the one before, or 64 bytes too early; and one in the index, one in the head."""
    first = Weights(good).in_order()
    for before, after in pairwise(first):
        weights = Weights(good)
        places = {weights.get(before, 8, "<Q"), weights.get(after, 8, "<Q") - 64 * (after % 2)}
        end = weights.get(before, 8, "<Q") + weights.get(before, 16, "<Q")
        for place in places:
            if place < end:
                weights.set(after, 8, "<Q", place)
                assert "overlaps the tensor before it" in refused(tmp_path / "w.ptd", weights.mended())
    for place in (0, 64, BASE, BASE + 1024):
        weights = Weights(good)
        weights.set(first[0], 8, "<Q", place)
        assert "overlaps the index" in refused(tmp_path / "w.ptd", weights.mended())


def test_bytes_behind_the_last_tensor(good: bytes, tmp_path: Path) -> None:
    weights = Weights(good)
    weights.data += bytes(64)
    assert "64 bytes behind the last tensor" in refused(tmp_path / "w.ptd", weights.mended())


@pytest.mark.parametrize(
    ("at", "format", "value", "words"),
    [
        (0, "<Q", 1, "hash of its name"),
        (8, "<Q", (1 << 64) - 64, "place"),
        (8, "<Q", 40001, "place"),
        (16, "<Q", 63, "place"),
        (16, "<Q", (1 << 64) - 1, "place"),
        (24, "<I", (1 << 32) - 1, "name"),
        (28, "<I", 0, "name"),
        (28, "<I", 257, "name"),
        (32, "<H", 14, "another version: build the bundle again"),
        (32, "<H", 15, "another version: build the bundle again"),
        (34, "<H", 2, "another version"),
        (36, "<I", 1 << 28, "shape and size"),
        (40, "<I", (1 << 32) - 1, "shape and size"),
        (44, "<I", 7, "shape and size"),
        (56, "<I", 1, "another version"),
    ],
)
def test_a_record_that_cannot_be(good: bytes, tmp_path: Path, at: int, format: str, value: int, words: str) -> None:
    weights = Weights(good)
    weights.set(3, at, format, value)
    assert words in refused(tmp_path / "w.ptd", weights.mended())


def test_a_name_twice(good: bytes, tmp_path: Path) -> None:
    weights = Weights(good)
    for at, format in ((0, "<Q"), (24, "<I"), (28, "<I")):
        weights.set(1, at, format, weights.get(0, at, format))
    assert "order, or a name twice" in refused(tmp_path / "w.ptd", weights.mended())


def test_reserved_bytes(good: bytes, tmp_path: Path) -> None:
    for place in (BASE + 52, BASE + 64 + 240):
        weights = Weights(good)
        weights.data[place] = 1
        (tmp_path / "w.ptd").write_bytes(weights.mended())
        with pytest.raises(UserError, match="reserved"):
            Model(tmp_path / "w.ptd")


def test_a_session_that_no_process_could_hold(tmp_path: Path) -> None:
    """Within every limit: 2^24 positions of 1,024 heads. The memory it needs is said, and not asked for."""
    config = config_bytes(heads=1024, kv_heads=1024, head_dim=64, layers=1024, context=1 << 24)
    memory = estimate_memory(config)
    assert memory.kv_bytes == 1024 * 1024 * (1 << 24) * 2 * (64 + 4)


# ---- verify ----------------------------------------------------------------------------------------------------------


def runner_verify(bundle: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([runner_paths()["x86_64"], "verify", bundle], capture_output=True, text=True)


@pytest.fixture
def copied(bundle: Callable[..., Path], tmp_path: Path) -> Path:
    """A whole bundle to damage."""
    return Path(shutil.copytree(bundle("affine-4bit"), tmp_path / "x.mbundle"))


def trusted(bundle: Path) -> None:
    """Makes the manifest true of the weights again."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["weights.ptd"]["sha256"] = sha256(bundle / "weights.ptd")
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def gaps(path: Path) -> list[int]:
    """The first and last byte of every gap."""
    data = path.read_bytes()
    table_end = sum(struct.unpack_from("<QQ", data, 16))
    weights = Weights(data)
    end, out = BASE + weights.index_bytes, [table_end, BASE - 1]
    for record in weights.in_order():
        begin = weights.get(record, 8, "<Q")
        out += [end, begin - 1] if begin > end else []
        end = begin + weights.get(record, 16, "<Q")
    assert end == len(data)
    return out


def test_every_gap_is_read(copied: Path) -> None:
    verify_bundle(copied)
    assert runner_verify(copied).returncode == 0
    path = copied / "weights.ptd"
    data = bytearray(path.read_bytes())
    places = gaps(path)
    assert len(places) > 10
    for place in places:
        data[place] ^= 0x40
        path.write_bytes(data)
        trusted(copied)
        with pytest.raises(UserError, match="is not zero"):
            verify_bundle(copied)
        process = runner_verify(copied)
        assert process.returncode == 1
        assert "is not zero" in process.stderr
        data[place] ^= 0x40


def test_what_only_executorch_reads_is_under_the_sha256(copied: Path) -> None:
    path = copied / "weights.ptd"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"weights\.ptd is damaged: its sha256"):
        verify_bundle(copied)


@pytest.mark.parametrize("name", ["more.bin", "bin/x86_64/more", ".hidden", "bin/x86_64/mobile-run.bak"])
def test_a_file_that_the_manifest_does_not_name(copied: Path, name: str) -> None:
    (copied / name).write_bytes(b"x")
    with pytest.raises(UserError, match=f"{re.escape(name)} is not part of the bundle"):
        verify_bundle(copied)


def test_a_link_that_the_manifest_does_not_name(copied: Path) -> None:
    (copied / "more").symlink_to(copied)
    with pytest.raises(UserError, match="more is not part of the bundle"):
        verify_bundle(copied)


def test_an_unfinished_cache_is_no_stray(copied: Path) -> None:
    (copied / ".weights.cache.partial-12-0").write_bytes(b"")
    verify_bundle(copied)
