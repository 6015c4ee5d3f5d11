"""States of sessions in files: what follows is what would have followed, and nothing else is taken up."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.errors import UserError
from mobile_bundle.native.engine import KV_TYPES, Model, Session
from mobile_bundle.pipeline.weights import build_weights
from support.checkpoints import ALL, write_tiny

HEADER = struct.Struct("<8sIIQQIIQIIII")
"""mb_state_header: magic, version, crc32, file_bytes, model_bytes, model_crc32, content_crc32, layout, kv_type,
position, written, reserved."""
IDS = np.random.default_rng(3).integers(0, 4096, 60).astype(np.int32)


def tail(session: Session, ids: np.ndarray) -> np.ndarray:
    """The logits after each of the ids, fed one by one."""
    return np.stack([session.feed([int(i)]).copy() for i in ids])


@pytest.fixture(scope="module")
def saved(bundle, tmp_path_factory) -> Path:
    """A state of 40 tokens."""
    path = tmp_path_factory.mktemp("state") / "a.state"
    with Model(bundle("affine-4bit")) as model, model.session(context=64) as session:
        session.feed(IDS[:40])
        session.save(IDS[:40], path)
    return path


@pytest.mark.parametrize("kv_type", sorted(KV_TYPES))
def test_what_follows_is_what_would_have_followed(bundle, tmp_path, kv_type):
    """In another process it would be the same: no session but the file is shared. Threads, kernels, the chunk and the
    context may be others."""
    path = tmp_path / "a.state"
    with Model(bundle("affine-4bit")) as model, model.session(context=64, kv_type=kv_type) as session:
        predicted = session.state_bytes(40)
        session.feed(IDS[:40])
        session.save(IDS[:40], path)
        assert path.stat().st_size == predicted == session.state_bytes(40)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        expected = tail(session, IDS[40:])
    for kernels, threads, chunk, context in (("scalar", 1, 5, 64), (None, 3, 64, 200)):
        with (
            Model(bundle("affine-4bit"), kernels) as model,
            model.session(context=context, threads=threads, prefill_chunk=chunk, kv_type=kv_type) as session,
        ):
            session.feed(IDS[::-1][:50])  # something else, which it forgets
            assert session.resume(path) == IDS[:40].tolist()
            assert session.position == 40
            np.testing.assert_array_equal(tail(session, IDS[40:]), expected)
            session.rewind(30)
            session.feed(IDS[30:40])
            np.testing.assert_array_equal(tail(session, IDS[40:]), expected)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.state"]


def test_int4_beyond_what_it_keeps_in_8_bits(bundle, tmp_path):
    path, ids = tmp_path / "a.state", np.random.default_rng(5).integers(0, 4096, 300).astype(np.int32)
    with Model(bundle("affine-4bit")) as model:
        for count, back in ((70, 0), (130, 0), (270, 0), (280, 20)):
            with model.session(context=512, kv_type="int4") as session:
                session.feed(ids[:count])
                session.rewind(count - back)
                session.save(ids[: count - back], path)
                assert path.stat().st_size == session.state_bytes(count - back)
                expected = tail(session, ids[count - back :])
            with model.session(context=300, threads=1, prefill_chunk=30, kv_type="int4") as session:
                session.feed(ids[::-1][:200])
                session.resume(path)
                np.testing.assert_array_equal(tail(session, ids[count - back :]), expected)
        # 8 bits of 64 and 128 positions, 4 bits of those from 64 to 192; 260 - 1 - 32 is in the tile from 192 on
        assert path.stat().st_size == 64 + 260 * 4 + 6 * 2 * 2 * (192 * (64 + 4) + 128 * (32 + 4))
        with (
            model.session(context=512, prefill_chunk=100, kv_type="int4") as session,
            pytest.raises(UserError, match="prefill chunk"),
        ):
            session.resume(path)
        path.write_bytes(changed(path, 8, struct.pack("<I", 2)))
        with (
            model.session(context=512, kv_type="int4") as session,
            pytest.raises(UserError, match="state of version 2, this runtime reads 3: remove it"),
        ):
            session.resume(path)


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_architecture(name, tmp_path):
    """Windows of all kinds, beyond their end, and after a rewind."""
    write_tiny(tmp_path / "model", name)
    build_weights(tmp_path / "model", "raw", tmp_path / "weights.ptd")
    with Model(tmp_path / "weights.ptd") as model:
        ids = np.random.default_rng(4).integers(0, model.vocabulary, 60).astype(np.int32)
        for count, back in ((7, 0), (45, 0), (45, 3)):
            with model.session(context=64, prefill_chunk=8) as session:
                session.feed(ids[:count])
                session.rewind(count - back)
                session.save(ids[: count - back], tmp_path / "a.state")
                expected = tail(session, ids[count - back :])
            with model.session(context=64, prefill_chunk=8) as session:
                session.resume(tmp_path / "a.state")
                np.testing.assert_array_equal(tail(session, ids[count - back :]), expected)


def test_a_ring_of_another_size_is_refused_once_it_has_turned(tmp_path):
    """A window of 24: 24 + 7 positions are one tile of 64, 24 + 47 are two."""
    write_tiny(tmp_path / "model", "mistral")
    build_weights(tmp_path / "model", "raw", tmp_path / "weights.ptd")
    ids = np.arange(1, 121, dtype=np.int32) % 50
    with Model(tmp_path / "weights.ptd") as model:
        for count, taken in ((20, True), (100, False)):
            with model.session(context=256, prefill_chunk=8) as session:
                session.feed(ids[:count])
                session.save(ids[:count], tmp_path / "a.state")
                expected = tail(session, ids[count:])
            with model.session(context=256, prefill_chunk=48) as session:
                if taken:
                    session.resume(tmp_path / "a.state")
                    np.testing.assert_array_equal(tail(session, ids[count:]), expected)
                else:
                    with pytest.raises(UserError, match="prefill chunk"):
                        session.resume(tmp_path / "a.state")


def changed(path: Path, at: int, values: bytes, sums: bool = True) -> bytes:
    """A state with other bytes at `at`; sums: with checksums that say so."""
    data = bytearray(path.read_bytes())
    data[at : at + len(values)] = values
    if sums:
        struct.pack_into("<I", data, 36, zlib.crc32(data[64:]))
        struct.pack_into("<I", data, 12, 0)
        struct.pack_into("<I", data, 12, zlib.crc32(data[:64]))
    return bytes(data)


def test_the_layout_is_as_the_header_says(saved):
    data = saved.read_bytes()
    fields = HEADER.unpack(data[:64])
    assert fields[:2] == (b"MBSTATE\0", 2)
    assert fields[3] == len(data)
    assert fields[8:] == (0, 40, 40, 0)
    assert zlib.crc32(data[64:]) == fields[6]
    assert zlib.crc32(data[:12] + bytes(4) + data[16:64]) == fields[2]
    assert data == changed(saved, 0, b"M")
    assert list(struct.unpack_from("<40i", data, 64)) == IDS[:40].tolist()
    # 6 layers, 2 KV heads, 64 int8 values and two fp16 scales each, keys and values; three groups of 16 positions
    assert len(data) == 64 + 40 * 4 + 48 * 6 * 2 * 2 * (64 + 2 * 2)
    pieces = [48 * 64] * 24 + [48 * 4] * 24
    hashed = 0xCBF29CE484222325
    for byte in struct.pack(f"<I{len(pieces)}Q", 0, *pieces):
        hashed = (hashed ^ byte) * 0x100000001B3 % 2**64
    assert fields[7] == hashed


U32 = struct.Struct("<I")
BAD = {
    "nothing": (lambda path: b"", "too short"),
    "foreign": (lambda path: b"GGUF" + bytes(1000), "no state of a session"),
    "cut": (lambda path: path.read_bytes()[:-1], "its size"),
    "longer": (lambda path: path.read_bytes() + b"x", "its size"),
    "older version": (
        lambda path: changed(path, 8, U32.pack(1)),
        "state of version 1, this runtime reads 2: remove it",
    ),
    "newer version": (lambda path: changed(path, 8, U32.pack(4)), "state of version 4"),
    "version of int4": (lambda path: changed(path, 8, U32.pack(3)), "state of version 3, this runtime reads 2"),
    "header": (lambda path: changed(path, 50, b"\x01", sums=False), "header's checksum"),
    "content": (lambda path: changed(path, 5000, b"\x55\xaa", sums=False), "content's checksum"),
    "model": (lambda path: changed(path, 32, b"abcd"), "another model"),
    "kv type": (lambda path: changed(path, 48, U32.pack(1)), "another type of KV cache"),
    "tokens": (lambda path: changed(path, 64, U32.pack(4096)), "its tokens"),
    "negative token": (lambda path: changed(path, 64, U32.pack(2**32 - 1)), "its tokens"),
    "no position": (lambda path: changed(path, 52, U32.pack(0)), "its header"),
    "other position": (lambda path: changed(path, 52, U32.pack(32)), "prefill chunk"),
    "position behind written": (lambda path: changed(path, 52, U32.pack(41)), "its header"),
    "written": (lambda path: changed(path, 56, U32.pack(2**31)), "context of 2147483648"),
    "reserved": (lambda path: changed(path, 60, U32.pack(1)), "its header"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_no_such_state_is_refused_and_changes_nothing(bundle, saved, tmp_path, kind):
    make, words = BAD[kind]
    path = tmp_path / "bad.state"
    path.write_bytes(make(saved))
    with Model(bundle("affine-4bit")) as model, model.session(context=64) as session:
        session.feed(IDS[:10])
        with pytest.raises(UserError, match=words) as refused:
            session.resume(path)
        assert "\n" not in str(refused.value)
        assert session.position == 10
        after = session.feed(IDS[10:12]).copy()
        session.rewind()
        np.testing.assert_array_equal(session.feed(IDS[:12]), after)


def test_other_sessions_refuse_it(bundle, saved, tmp_path):
    with Model(bundle("affine-4bit")) as model:
        with model.session(context=32) as session, pytest.raises(UserError, match="context of 40 tokens"):
            session.resume(saved)
        with model.session(context=64, kv_type="f16") as session, pytest.raises(UserError, match="another type"):
            session.resume(saved)
        with model.session(context=64) as session:
            for path in (tmp_path / "none", tmp_path, Path("/dev/null")):
                with pytest.raises(UserError, match=str(path)):
                    session.resume(path)
    with (
        Model(bundle("affine-8bit")) as other,
        other.session(context=64) as session,
        pytest.raises(UserError, match="another model"),
    ):
        session.resume(saved)


def test_what_cannot_be_saved_says_so_and_leaves_nothing(bundle, saved, tmp_path):
    kept = tmp_path / "kept.state"
    kept.write_bytes(saved.read_bytes())
    with Model(bundle("affine-4bit")) as model, model.session(context=64) as session:
        with pytest.raises(UserError, match="nothing has been read"):
            session.save([], tmp_path / "a.state")
        with pytest.raises(UserError, match="room for 64"):
            session.state_bytes(65)
        session.feed(IDS[:5])
        with pytest.raises(UserError, match="no such folder: make it"):
            session.save(IDS[:5], tmp_path / "none/a.state")
        with pytest.raises(UserError, match="cannot be written"):
            session.save(IDS[:5], tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.state"]
    # a disk (here: a limit on the size of files) that is full keeps what was there before
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from mobile_bundle.native.engine import Model\n"
        "from mobile_bundle.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "with Model(Path(sys.argv[1])) as model, model.session(context=64) as session:\n"
        "    session.feed(range(20))\n"
        "    try:\n"
        "        session.save(range(20), Path(sys.argv[2]))\n"
        "    except UserError as e:\n"
        "        print(e)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, bundle("affine-4bit"), kept], capture_output=True, text=True, env=os.environ
    )
    assert "saving the state needs" in process.stdout, process.stderr
    assert kept.read_bytes() == saved.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.state"]
