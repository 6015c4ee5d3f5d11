"""weights.ptd and manifest.json: what ExecuTorch accepts, what damage is found, what a crash leaves behind."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.codecs import BlobHeader, Format, codec_by_name
from mobile_bundle.container import ContainerError, PlannedTensor, WeightsReader, WeightsWriter
from mobile_bundle.container.flat_tensor import FlatTensorHeader
from mobile_bundle.container.index import index_bytes, name_hash, pack_index, parse_index
from mobile_bundle.container.manifest import (
    describe_files,
    fingerprint,
    is_bundle,
    obstacle,
    read_manifest,
    schema,
    verify_files,
    write_manifest,
)
from mobile_bundle.errors import UserError
from mobile_bundle.files.atomic import AtomicDirectory as AnyAtomicDirectory
from mobile_bundle.files.commit import OutputTaken
from numpy.typing import NDArray

CONFIG = bytes(range(256))


def sample() -> dict[str, tuple[str, str, NDArray[np.float32]]]:
    """name: (segment, codec, weight)"""
    generator = np.random.default_rng(0)

    def weight(*shape: int) -> NDArray[np.float32]:
        return generator.standard_normal(shape).astype(np.float32)

    return {
        "norm.weight": ("vectors", "f32", weight(1, 24)),
        "layers.0.mlp.norm.weight": ("vectors", "f32", weight(1, 24)),
        "embedding.weight": ("embedding", "affine-8bit", weight(50, 24)),
        "layers.0.mlp.up.weight": ("layers.0", "affine-3bit", weight(40, 24)),
        "layers.0.mlp.down.weight": ("layers.0", "bitnet-row", weight(24, 40)),
        "layers.1.mlp.up.weight": ("layers.1", "raw", weight(40, 24)),
    }


def write_sample(path: Path, backwards: bool = False) -> dict[str, bytes]:
    """Writes the sample; the blobs by name."""
    tensors = sample()
    planned, blobs = [], {}
    for name, (segment, codec, weight) in tensors.items():
        blobs[name] = codec_by_name(codec).encode(weight).to_bytes()
        header = BlobHeader.parse(blobs[name])
        planned.append(
            PlannedTensor(segment, name, BlobHeader(header.format, *weight.shape, header.group, header.flags))
        )
    with WeightsWriter(path, CONFIG, planned) as writer:
        for name in reversed(blobs) if backwards else blobs:
            blob = writer.blob(name)
            blob.write(blobs[name][:70])
            blob.write(memoryview(blobs[name])[70:])
            blob.close()
        writer.finish()
    return blobs


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "weights.ptd"
    blobs = write_sample(path)
    with WeightsReader(path) as reader:
        assert reader.config == CONFIG
        assert reader.file_bytes == path.stat().st_size
        assert {entry.name for entry in reader.entries} == set(blobs)
        assert [entry.name for entry, _ in reader.blobs()] == list(blobs)
        for name, data in blobs.items():
            assert reader.blob(name).to_bytes() == data
            assert reader.header(name) == BlobHeader.parse(data)
            assert reader.entry(name).offset % 64 == 0
            assert name in reader
        assert "nothing" not in reader
        reader.verify()
    write_sample(tmp_path / "again.ptd", backwards=True)
    assert (tmp_path / "again.ptd").read_bytes() == path.read_bytes()


def test_the_layout_is_the_one_of_weights_index_h(tmp_path: Path) -> None:
    """Read as the C code reads it, without the package's own parser."""
    blobs = write_sample(tmp_path / "weights.ptd")
    data = (tmp_path / "weights.ptd").read_bytes()
    assert data[8:12] == b"FH01"
    base, segments = struct.unpack_from("<QQ", data, 32)
    assert base % 16384 == 0
    assert base + segments == len(data)
    magic, version, count, size, whole, config_at, records_at, names_at, names_size, crc = struct.unpack_from(
        "<8sIIQQIIIII", data, base
    )
    assert (magic, version, count, whole) == (b"MBINDEX\0", 1, len(blobs), len(data))
    assert data[base + config_at : base + config_at + 256] == CONFIG
    assert size == names_at + names_size
    index = bytearray(data[base : base + size])
    index[48:52] = bytes(4)
    assert zlib.crc32(index) == crc
    last = (-1, "")
    for i in range(count):
        record = struct.unpack_from("<QQQIIHHIIIII", data, base + records_at + 64 * i)
        hashed, offset, length, name_at, name_size, kind, blob_version, rows, columns, group, flags, blob_crc = record
        name = data[base + names_at + name_at :][:name_size].decode()
        assert hashed == name_hash(name.encode())
        assert (hashed, name) > last
        last = (hashed, name)
        assert offset % 64 == 0
        assert data[offset : offset + length] == blobs[name]
        assert zlib.crc32(blobs[name]) == blob_crc
        assert struct.unpack_from("<HHIIII", blobs[name], 4) == (blob_version, kind, rows, columns, group, flags)


def test_fnv1a() -> None:
    assert name_hash(b"") == 0xCBF29CE484222325
    assert name_hash(b"a") == 0xAF63DC4C8601EC8C
    assert name_hash(b"foobar") == 0x85944171F73967E8


@pytest.mark.slow
def test_executorch_reads_it(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    from executorch.exir._serialize._cord import Cord
    from executorch.extension.flat_tensor.serialize.serialize import FlatTensorSerializer

    blobs = write_sample(tmp_path / "weights.ptd")
    data = (tmp_path / "weights.ptd").read_bytes()
    payload = FlatTensorSerializer().deserialize(Cord(data))
    assert set(payload.named_data) == {"mobile_bundle.index", "vectors", "embedding", "layers.0", "layers.1"}
    segments = {key: bytes(payload.buffers[entry.buffer_index]) for key, entry in payload.named_data.items()}
    assert segments["mobile_bundle.index"].startswith(b"MBINDEX\0")
    assert len(segments["mobile_bundle.index"]) == index_bytes(list(blobs))
    assert segments["embedding"] == blobs["embedding.weight"]
    up, down = blobs["layers.0.mlp.up.weight"], blobs["layers.0.mlp.down.weight"]
    assert segments["layers.0"] == up + bytes(-len(up) % 64) + down
    header = FlatTensorHeader.parse(data[:48])
    for entry in payload.named_data.values():
        assert data.index(bytes(payload.buffers[entry.buffer_index]), header.segment_base) % 16384 == 0


def test_an_unfinished_file_has_no_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.ptd"
    planned = [PlannedTensor("vectors", "a", BlobHeader(codec_by_name("f32").format, 1, 4))]
    with suppress(KeyboardInterrupt), WeightsWriter(path, CONFIG, planned) as writer:
        writer.blob("a").write(bytes(80))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with WeightsWriter(path, CONFIG, planned) as writer:
        with pytest.raises(ValueError, match="longer than planned"):
            writer.blob("a").write(bytes(81))
        with pytest.raises(ValueError, match="planned were 80"):
            writer.blob("a").close()
        with pytest.raises(ValueError, match="planned but not written"):
            writer.finish()
    with pytest.raises(ValueError, match="planned twice"):
        WeightsWriter(path, CONFIG, planned * 2)
    with pytest.raises(UserError, match="cannot write"), WeightsWriter(tmp_path / "no" / "w", CONFIG, planned):
        pass


def open_and_verify(path: Path) -> None:
    with WeightsReader(path) as reader:
        reader.verify()
        for entry in reader.entries:
            reader.blob(entry.name)


def test_truncation_is_found(tmp_path: Path) -> None:
    write_sample(tmp_path / "weights.ptd")
    data = (tmp_path / "weights.ptd").read_bytes()
    for size in (0, 7, 47, 48, 1000, 16384, 16384 + 63, 16384 + 400, 40000, len(data) - 64, len(data) - 1):
        (tmp_path / "cut.ptd").write_bytes(data[:size])
        with pytest.raises(ContainerError):
            open_and_verify(tmp_path / "cut.ptd")
    (tmp_path / "cut.ptd").write_bytes(data + b"\0")
    with pytest.raises(ContainerError):
        open_and_verify(tmp_path / "cut.ptd")
    with pytest.raises(UserError, match="cannot open"):
        WeightsReader(tmp_path / "nothing.ptd")


def test_every_flipped_bit_that_matters_is_found(tmp_path: Path) -> None:
    """In the fixed header, the index and the blobs. (What only ExecuTorch reads, and padding, the sha256 covers.)"""
    write_sample(tmp_path / "weights.ptd")
    data = bytearray((tmp_path / "weights.ptd").read_bytes())
    with WeightsReader(tmp_path / "weights.ptd") as reader:
        blobs = [(entry.offset, entry.offset + entry.bytes) for entry in reader.entries]
        base = 16384
        size = struct.unpack_from("<Q", data, base + 16)[0]
    places = [*range(4, 12), *range(32, 48), *range(base, base + size)]
    generator = np.random.default_rng(0)
    places += [int(place) for begin, end in blobs for place in generator.integers(begin, end, 25)]
    path = tmp_path / "flipped.ptd"
    path.write_bytes(data)
    with open(path, "r+b") as file:
        for place in places:
            for flip in (1 << int(generator.integers(8)),):
                os.pwrite(file.fileno(), bytes([data[place] ^ flip]), place)
                with pytest.raises(ContainerError):
                    open_and_verify(path)
                os.pwrite(file.fileno(), bytes([data[place]]), place)
    open_and_verify(path)


def test_hostile_indexes(tmp_path: Path) -> None:
    """With checksums that are right: only the checks of sizes and offsets stand between them and the reader."""
    write_sample(tmp_path / "weights.ptd")
    with WeightsReader(tmp_path / "weights.ptd") as reader:
        entries, size = reader.entries, reader.file_bytes
    good = pack_index(CONFIG, entries, size)
    assert parse_index(good, size) == (CONFIG, entries)
    records = 64 + 256

    def patched(offset: int, format: str, *values: int) -> bytes:
        data = bytearray(good)
        struct.pack_into(format, data, offset, *values)
        data[48:52] = bytes(4)
        data[48:52] = struct.pack("<I", zlib.crc32(data))
        return bytes(data)

    big = (1 << 32) - 1
    hostile = {
        "version": patched(8, "<I", 2),
        "count": patched(12, "<I", len(entries) + 1),
        "huge count": patched(12, "<I", big),
        "index size": patched(16, "<Q", len(good) + 1),
        "huge index size": patched(16, "<Q", (1 << 64) - 1),
        "small index size": patched(16, "<Q", 64),
        "file size": patched(24, "<Q", size + 1),
        "config offset": patched(32, "<I", len(good) - 255),
        "config in the header": patched(32, "<I", 0),
        "records offset": patched(36, "<I", big),
        "names offset": patched(40, "<I", big),
        "names size": patched(44, "<I", big),
        "reserved": patched(52, "<I", 1),
        "hash": patched(records, "<Q", 1),
        "offset": patched(records + 8, "<Q", (1 << 64) - 64),
        "odd offset": patched(records + 8, "<Q", entries[0].offset + 1),
        "another's place": patched(records + 8, "<Q", entries[1].offset),
        "bytes": patched(records + 16, "<Q", 64),
        "name offset": patched(records + 24, "<I", big),
        "name size": patched(records + 28, "<I", big),
        "format": patched(records + 32, "<H", 99),
        "blob version": patched(records + 34, "<H", 9),
        "rows": patched(records + 36, "<I", big),
        "no rows": patched(records + 36, "<I", 0),
        "columns": patched(records + 40, "<I", 1 << 27),
        "group": patched(records + 44, "<I", 7),
        "flags": patched(records + 48, "<I", 128),
        "reserved of a record": patched(records + 56, "<I", 1),
        "wrong checksum": good[:48] + b"\0\0\0\0" + good[52:],
        "swapped records": b"",
    }
    swapped = bytearray(good)
    swapped[records : records + 64], swapped[records + 64 : records + 128] = (
        good[records + 64 : records + 128],
        good[records : records + 64],
    )
    swapped[48:52] = bytes(4)
    swapped[48:52] = struct.pack("<I", zlib.crc32(swapped))
    hostile["swapped records"] = bytes(swapped)
    for data in hostile.values():
        with pytest.raises(ContainerError):
            parse_index(data, size)
    with pytest.raises(ContainerError, match="weight format of an earlier version 15"):
        parse_index(patched(records + 32, "<H", 15), size)


def test_random_damage_never_crashes_the_reader(tmp_path: Path) -> None:
    """Bytes at random in the parsed parts, checksum made right again: an answer or a ContainerError, nothing else."""
    write_sample(tmp_path / "weights.ptd")
    with WeightsReader(tmp_path / "weights.ptd") as reader:
        good, size = pack_index(CONFIG, reader.entries, reader.file_bytes), reader.file_bytes
    generator = np.random.default_rng(1)
    for _ in range(2000):
        data = bytearray(good)
        for place in generator.integers(12, len(data), generator.integers(1, 4)):
            data[place] = generator.integers(256)
        data[48:52] = bytes(4)
        data[48:52] = struct.pack("<I", zlib.crc32(data))
        with suppress(ContainerError):
            parse_index(bytes(data), size)


# ---- manifest --------------------------------------------------------------------------------------------------------


def minimal_manifest() -> dict[str, object]:
    shape = "parameters vocabulary hidden layers heads kv_heads head_dim feed_forward context default_context"
    numbers = f"{shape} sliding_window"
    return {
        "format": "mobile-bundle",
        "format_version": 1,
        "tool_version": "0",
        "model": {
            "name": "m",
            "architecture": "a",
            **dict.fromkeys(numbers.split(), 2),
            "tied": True,
            "bos": None,
            "eos": [],
        },
        "recipe": "raw",
        "tensors": [
            {
                "name": "t",
                "codec": "raw",
                "format": "bf16",
                "rows": 1,
                "columns": 1,
                "bytes": 66,
                "bits_per_weight": 528.0,
                "relative_error": 0.0,
            }
        ],
        "bytes": 5,
        "bits_per_weight": 16.0,
        "files": {},
        "predicted": dict.fromkeys(("anon_bytes", "file_bytes", "kv_bytes_per_token", "peak_bytes", "context"), 1),
        "min_device_ram_gb": 1,
        "generation": {},
        "chat_template": False,
        "licence": None,
        "notes": [],
    }


def test_manifest(tmp_path: Path) -> None:
    (tmp_path / "weights.ptd").write_bytes(b"abc")
    (tmp_path / "bin/x").mkdir(parents=True)
    (tmp_path / "bin/x/mobile-run").write_bytes(b"xy")
    (tmp_path / "tokenizer.bin").write_bytes(b"")
    manifest = {**minimal_manifest(), "files": describe_files(tmp_path)}
    assert list(describe_files(tmp_path)) == ["bin/x/mobile-run", "tokenizer.bin", "weights.ptd"]
    write_manifest(tmp_path, manifest)
    assert is_bundle(tmp_path)
    assert read_manifest(tmp_path) == manifest
    verify_files(tmp_path, manifest)
    (tmp_path / "weights.ptd").write_bytes(b"abd")
    with pytest.raises(UserError, match=r"weights\.ptd is damaged: its sha256"):
        verify_files(tmp_path, manifest)
    (tmp_path / "weights.ptd").write_bytes(b"ab")
    with pytest.raises(UserError, match="has 2 bytes, the manifest says 3"):
        verify_files(tmp_path, manifest)
    (tmp_path / "weights.ptd").unlink()
    with pytest.raises(UserError, match=r"weights\.ptd is missing"):
        verify_files(tmp_path, manifest)
    for name in ("../x", "/etc/passwd"):
        with pytest.raises(UserError, match="is invalid"):
            verify_files(tmp_path, {**manifest, "files": {name: {"bytes": 1, "sha256": "0"}}})


def test_manifests_that_are_damaged(tmp_path: Path) -> None:
    files = {name: {"bytes": 1, "sha256": "0" * 64} for name in ("weights.ptd", "tokenizer.bin")}
    good = {**minimal_manifest(), "files": files}
    path = tmp_path / "manifest.json"

    def refused(text: str, message: str) -> None:
        path.write_text(text, "utf-8")
        with pytest.raises(UserError, match=message) as error:
            read_manifest(tmp_path)
        assert "\n" not in str(error.value)

    with pytest.raises(UserError, match=r"is not a bundle: it has no manifest\.json"):
        read_manifest(tmp_path)
    path.write_text(json.dumps(good), "utf-8")
    assert read_manifest(tmp_path)["recipe"] == "raw"
    refused("", "damaged, or not the manifest of a bundle")
    refused("[" * 100_000, "damaged, or not the manifest of a bundle")
    refused("[1]", "damaged, or not the manifest of a bundle")
    refused(json.dumps({**good, "format": "x"}), "damaged, or not the manifest of a bundle")
    refused(json.dumps({**good, "format_version": 2}), "format version 2, this program reads 1")
    refused(json.dumps({**good, "tensors": 5}), "is damaged .tensors")
    refused(json.dumps({**good, "files": {}}), "is damaged .files")
    refused(json.dumps({key: value for key, value in good.items() if key != "predicted"}), "'predicted' is a required")


def test_the_schema_is_one() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_schema_knows_every_format() -> None:
    known = schema()["properties"]["tensors"]["items"]["properties"]["format"]["enum"]
    assert set(known) == {format.name.lower() for format in Format}


# ---- a directory that appears whole or not at all --------------------------------------------------------------------


AtomicDirectory = partial(AnyAtomicDirectory, obstacle=obstacle, fingerprint=fingerprint)


def fill(directory: AnyAtomicDirectory, text: str = "new") -> None:
    fill_path(directory.path, text)


def fill_path(path: Path, text: str) -> None:
    (path / "sub").mkdir(parents=True)
    (path / "sub/data").write_text(text)
    (path / "manifest.json").write_text(
        json.dumps({"format": "mobile-bundle", "text": text, "files": {"sub/data": {}}})
    )


def test_a_directory_appears_at_commit(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "x.mbundle"
    with AtomicDirectory(target) as directory:
        fill(directory)
        assert not target.exists()
        directory.commit()
    assert (target / "sub/data").read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["x.mbundle"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_bundle_is_replaced_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr("mobile_bundle.files.rename._renameat2", lambda *_: errno.ENOSYS)
    target = tmp_path / "x.mbundle"
    for text in ("old", "new"):
        with AtomicDirectory(target) as directory:
            fill(directory, text)
            if text == "new":
                assert (target / "sub/data").read_text() == "old"
            directory.commit()
    assert (target / "sub/data").read_text() == "new"
    with suppress(KeyboardInterrupt), AtomicDirectory(target) as directory:
        fill(directory, "newer")
        raise KeyboardInterrupt
    assert (target / "sub/data").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["x.mbundle"]


def test_what_is_not_a_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter").write_text("dear")
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, message in (("home", "exists and is not a bundle"), ("file", "is a file")):
        with pytest.raises(UserError, match=message), AtomicDirectory(tmp_path / name):
            pass
    with AtomicDirectory(tmp_path / "empty") as directory:
        fill(directory)
        directory.commit()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "home"]
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with AtomicDirectory(tmp_path / "link") as directory:
        fill(directory, "through")
        directory.commit()
    assert (tmp_path / "empty/sub/data").read_text() == "through"


def test_a_dead_builds_directory_is_cleaned_and_a_live_ones_is_not(tmp_path: Path) -> None:
    stale = tmp_path / ".x.mbundle.partial-0123abcd"
    stale.mkdir()
    (stale / "weights.ptd.partial").write_text("half")
    other = tmp_path / ".y.mbundle.partial-0123abcd"
    other.mkdir()
    with AtomicDirectory(tmp_path / "x.mbundle") as one:
        assert not stale.exists()
        with AtomicDirectory(tmp_path / "x.mbundle") as two:
            assert one.path.is_dir()
            fill(two, "first")
            two.commit()
        fill(one, "last")
        with pytest.raises(OutputTaken, match="appeared meanwhile"):
            one.commit()
    assert (tmp_path / "x.mbundle/sub/data").read_text() == "first"
    assert (tmp_path / "x.mbundle.new/sub/data").read_text() == "last"
    assert other.is_dir()


@pytest.mark.serial
@pytest.mark.slow
def test_kill_at_every_moment_leaves_the_old_bundle_or_the_new(tmp_path: Path) -> None:
    """A process that is killed (SIGKILL) at the n-th system call of the commit."""
    script = """
import os, signal, sys
from pathlib import Path
from mobile_bundle.files import commit, work_folder
from mobile_bundle.files.atomic import AtomicDirectory
from mobile_bundle.container.manifest import fingerprint, obstacle
left = int(sys.argv[2])
def dying(function):
    def call(*arguments, **names):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **names)
    return call
os.fsync, os.rename, commit.exchange = dying(os.fsync), dying(os.rename), dying(commit.exchange)
work_folder.shutil.rmtree = dying(work_folder.shutil.rmtree)
with AtomicDirectory(Path(sys.argv[1]), obstacle, fingerprint) as directory:
    (directory.path / "data").write_text("new")
    (directory.path / "manifest.json").write_text('{"format": "mobile-bundle", "files": {"data": {}}}')
    directory.commit()
"""
    target = tmp_path / "x.mbundle"
    target.mkdir()
    (target / "data").write_text("old")
    (target / "manifest.json").write_text('{"format": "mobile-bundle", "files": {"data": {}}}')
    seen = []
    for moment in range(1, 20):
        status = subprocess.run([sys.executable, "-c", script, str(target), str(moment)], check=False).returncode
        text = (target / "data").read_text()
        assert is_bundle(target)
        seen.append(text)
        if status == 0:
            break
        assert status == -9
    assert seen[0] == "old"
    assert seen[-1] == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["x.mbundle"]
