"""Installing: stored tensors become a cache file, once, whatever happens meanwhile; and mapping layer by layer."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import shutil
import struct
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.codecs import codec_for
from mobile_bundle.codecs.blob import BlobHeader, Format
from mobile_bundle.codecs.installed import cache_bytes, installed_bytes, is_stored
from mobile_bundle.container.verify import verify_bundle
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.errors import UserError
from mobile_bundle.native.engine import Model, ModelOptions
from mobile_bundle.native.engine import engine_library as library
from mobile_bundle.native.programs import bundle_runner
from mobile_bundle.pipeline.weights import build_weights
from mobile_bundle.planning.memory import mapped_weights
from mobile_bundle.planning.recipe import Recipe
from safetensors.numpy import save_file
from support.builds import build as build_a
from support.checkpoints import copy_tokenizer
from support.paths import STORIES

STORED = "bitnet-1.6bit"
PACKED = "bitnet"
"""The same model: what STORED becomes when it is installed."""
CACHE = "weights.cache"
IDENTITY = 64
INDEX = 16384


def run(directory: Path, command: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(bundle_runner(directory)), command, str(directory), *arguments],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, **options,
    )  # fmt: skip


def last_event(process: subprocess.CompletedProcess[str]) -> dict:
    return json.loads(process.stdout.splitlines()[-1])


def install(directory: Path, *arguments: str, **options: object) -> dict:
    process = run(directory, "install", "--json", *arguments, **options)
    assert process.returncode == 0, process.stdout + process.stderr
    return last_event(process)


def tokens(directory: Path, *arguments: str) -> list[int]:
    process = run(directory, "generate", "--prompt", "The history", "--max-new-tokens", "6", "--ignore-eos", "--json",
                  "--threads", "1", *arguments)  # fmt: skip
    assert process.returncode == 0, process.stdout
    events = [json.loads(line) for line in process.stdout.splitlines()]
    return [event["id"] for event in events if event["event"] == "token"]


def others(directory: Path) -> set[str]:
    """Files beside those of a bundle that was just built."""
    return {path.name for path in directory.iterdir()} - {"manifest.json", "weights.ptd", "tokenizer.bin", "bin"}


def not_installed(bundle: Path, target: Path) -> Path:
    """A copy without the cache that another test may have given the bundle."""
    return Path(shutil.copytree(bundle, target, ignore=shutil.ignore_patterns(CACHE)))


@pytest.fixture
def stored(bundle: Callable[..., Path], tmp_path: Path) -> Path:
    """A bundle of stored tensors that is not installed yet."""
    return not_installed(bundle(STORED), tmp_path / "stored.mbundle")


@pytest.fixture(scope="module")
def expected(bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[int], bytes]:
    """(tokens of the packed bundle, the cache that the stored one is to have)."""
    directory = not_installed(bundle(STORED), tmp_path_factory.mktemp("expected") / "stored.mbundle")
    install(directory)
    return tokens(bundle(PACKED)), (directory / CACHE).read_bytes()


def write_llama(directory: Path, hidden: int, feed: int, layers: int, tied: bool) -> Path:
    """A Llama checkpoint of 512 tokens with Gaussian weights in float16, without torch."""
    generator = np.random.default_rng(0)
    block = (generator.standard_normal(1 << 20, np.float32) * np.float32(0.05)).astype(np.float16)
    shapes = {"model.embed_tokens.weight": (512, hidden), "model.norm.weight": (hidden,)}
    if not tied:
        shapes["lm_head.weight"] = (512, hidden)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}self_attn.{name}_proj.weight": (hidden, hidden) for name in "qkvo"}
        shapes |= {f"{prefix}mlp.{name}_proj.weight": (feed, hidden) for name in ("gate", "up")}
        shapes[f"{prefix}mlp.down_proj.weight"] = (hidden, feed)
        shapes |= {f"{prefix}{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
    tensors = {}
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        tensors[name] = np.resize(np.roll(block, -len(tensors) * 1001), size).reshape(shape)
        if name.endswith("norm.weight"):
            tensors[name] = np.ones(shape, np.float16)
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 512,
        "hidden_size": hidden, "intermediate_size": feed, "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 64, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6, "rope_theta": 1e4, "tie_word_embeddings": tied, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    copy_tokenizer(STORIES, directory)
    return directory


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """deep(recipe): a bundle of twelve layers of 3.4 million weights and a head of a thirteenth of that."""
    folder = tmp_path_factory.mktemp("deep")
    write_llama(folder / "deep", 512, 1536, 12, tied=False)

    def build(recipe: str) -> Path:
        out = folder / f"{recipe}.mbundle"
        if not out.exists():
            build_a(folder / "deep", out, recipe, formats=("native",))
        return out

    return build


def test_logits_are_those_of_the_packed_form(bundle, stored):
    ids = np.arange(1, 40, dtype=np.int32)
    with Model(bundle(PACKED)) as packed, Model(stored) as installed:
        with packed.session(all_logits=True, prefill_chunk=64) as one:
            want = one.feed_all(ids).copy()
        with installed.session(all_logits=True, prefill_chunk=64) as other:
            assert np.array_equal(other.feed_all(ids), want)
    assert others(stored) == {CACHE}


def test_install_then_nothing_is_left_to_do(stored, expected):
    first = install(stored)
    assert first["event"] == "installed"
    assert first["decoded_bytes"] > first["stored_bytes"] > 0
    assert first["cache_bytes"] == (stored / CACHE).stat().st_size == len(expected[1])
    assert first["seconds"] > 0
    assert first["bytes_per_second"] > 0
    before = (stored / CACHE).stat().st_mtime_ns
    assert install(stored)["decoded_bytes"] == 0
    assert tokens(stored) == expected[0]
    assert (stored / CACHE).stat().st_mtime_ns == before, "a whole cache was written again"


def test_a_bundle_of_packed_tensors_gets_no_cache(bundle, tmp_path):
    directory = Path(shutil.copytree(bundle(PACKED), tmp_path / "packed.mbundle"))
    result = install(directory)
    assert result["tensors"] == result["decoded_bytes"] == result["cache_bytes"] == 0
    tokens(directory)
    assert others(directory) == set()


def test_the_first_load_installs(stored, expected):
    assert tokens(stored) == expected[0]
    assert (stored / CACHE).read_bytes() == expected[1]


def flip(offset: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[offset] ^= 1

    return change


def other_version(data: bytearray) -> None:
    data[IDENTITY + 8] += 1


def other_weights(data: bytearray) -> None:
    """The cache of a weights.ptd of the same size and shapes, but other blobs."""
    struct.pack_into("<I", data, IDENTITY + 12, zlib.crc32(b"another index"))


def damaged_blob_header(data: bytearray) -> None:
    data[data.index(b"MBWB") + 6] ^= 4


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: data.clear(), id="empty"),
        pytest.param(lambda data: data.__delitem__(slice(1000, None)), id="no index"),
        pytest.param(lambda data: data.__delitem__(slice(-1, None)), id="a byte short"),
        pytest.param(lambda data: data.extend(b"x"), id="a byte long"),
        pytest.param(flip(9), id="flat header"),
        pytest.param(flip(IDENTITY + 1), id="magic"),
        pytest.param(flip(INDEX + 20), id="index header"),
        pytest.param(flip(INDEX + 64 + 8), id="model"),
        pytest.param(flip(INDEX + 64 + 256 + 70), id="record"),
        pytest.param(other_version, id="version"),
        pytest.param(other_weights, id="other weights"),
        pytest.param(damaged_blob_header, id="blob header"),
    ],
)
def test_a_cache_that_does_not_fit_is_made_again(stored, expected, change):
    data = bytearray(expected[1])
    change(data)
    assert data != expected[1]
    (stored / CACHE).write_bytes(data)
    assert run(stored, "verify").returncode == 1
    with pytest.raises(UserError, match="install"):
        verify_bundle(stored)
    assert tokens(stored) == expected[0]
    assert (stored / CACHE).read_bytes() == expected[1]
    assert run(stored, "verify").returncode == 0


def test_a_flipped_weight_is_found_by_verify_and_mended_by_install(stored, expected):
    data = bytearray(expected[1])
    data[-3] ^= 16
    (stored / CACHE).write_bytes(data)
    process = run(stored, "verify")
    assert process.returncode == 1
    assert "mobile-run install" in process.stderr
    with pytest.raises(UserError, match="checksum"):
        verify_bundle(stored)
    assert install(stored)["decoded_bytes"] > 0
    assert (stored / CACHE).read_bytes() == expected[1]


def test_verify_reads_the_cache_and_writes_nothing(stored, expected):
    assert run(stored, "verify").returncode == 0
    assert CACHE not in verify_bundle(stored)
    assert others(stored) == set()
    (stored / CACHE).write_bytes(expected[1])
    assert run(stored, "verify").returncode == 0
    assert CACHE in verify_bundle(stored)


def blocked_install(directory: Path) -> subprocess.Popen[bytes]:
    """An installation that has decoded a part, at least, and waits for a reader of its progress: it cannot end."""
    reader, writer = os.pipe()
    try:
        size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        os.write(writer, bytes(size))
        process = subprocess.Popen(
            [str(bundle_runner(directory)), "install", str(directory), "--json"],
            stdin=subprocess.DEVNULL, stdout=writer,
        )  # fmt: skip
        process.reader = reader  # type: ignore[attr-defined]
    finally:
        os.close(writer)
    end = time.monotonic() + 30
    while not any(name.endswith("-0") for name in others(directory)) and time.monotonic() < end:
        time.sleep(0.005)
    assert process.poll() is None
    return process


def test_a_killed_install_leaves_no_cache_and_the_next_one_cleans_up(stored, expected):
    process = blocked_install(stored)
    left = others(stored)
    assert len(left) == 1
    assert all(name.startswith(f".{CACHE}.partial-") for name in left)
    # A second one neither waits for the first nor takes its file away.
    install(stored)
    assert others(stored) == {CACHE, *left}
    (stored / CACHE).unlink()
    process.kill()
    process.wait()
    os.close(process.reader)
    assert others(stored) == left
    assert tokens(stored) == expected[0]
    assert others(stored) == {CACHE}
    assert (stored / CACHE).read_bytes() == expected[1]


def test_a_blocked_install_that_goes_on_ends_well(stored, expected):
    process = blocked_install(stored)
    with open(process.reader, "rb") as pipe:
        assert b'"installed"' in pipe.read()
    assert process.wait(timeout=30) == 0
    assert (stored / CACHE).read_bytes() == expected[1]
    assert others(stored) == {CACHE}


def test_installs_at_once_do_no_harm(stored, expected):
    command = [str(bundle_runner(stored)), "install", str(stored)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(6)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert (stored / CACHE).read_bytes() == expected[1]
    assert others(stored) == {CACHE}


def test_a_cancelled_install_leaves_nothing(stored):
    seen: list[tuple[int, int]] = []

    @ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_char_p)
    def stop(_context, done, total, _what):
        seen.append((done, total))
        return False

    options = ModelOptions(size=ctypes.sizeof(ModelOptions), progress=ctypes.cast(stop, ctypes.c_void_p))
    model = ctypes.c_void_p()
    status = library().mb_model_open(os.fsencode(stored), ctypes.byref(options), ctypes.byref(model))
    assert (status, model.value) == (5, None)
    assert b"cancelled" in library().mb_error_message()
    assert seen
    assert others(stored) == set()


def test_a_full_disk_is_told_with_the_bytes_that_are_missing(stored, expected):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    for command in (["install"], ["generate", "--prompt", "a"]):
        process = run(stored, command[0], *command[1:], preexec_fn=limit)
        assert process.returncode == 1
        assert f"needs {len(expected[1])} bytes" in process.stderr
        assert "are free" in process.stderr
        assert len(process.stderr.strip().splitlines()) == 1
        assert others(stored) == set()
    assert tokens(stored) == expected[0]


def test_a_folder_that_cannot_be_written_needs_another_cache(stored, expected):
    """As nobody where the tests run as root, who may write everywhere."""
    user = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="mobile-bundle-") as folder:
        os.chmod(folder, 0o755)
        locked = Path(shutil.copytree(stored, Path(folder, "locked.mbundle")))
        cache = Path(folder, "cache")
        cache.mkdir()
        cache.chmod(0o777)
        locked.chmod(0o555)
        try:
            for command in (["install"], ["generate", "--prompt", "a"]):
                process = run(locked, command[0], *command[1:], **user)
                assert process.returncode == 1
                assert "--cache DIR" in process.stderr
                assert len(process.stderr.strip().splitlines()) == 1
            assert run(locked, "verify", **user).returncode == 0
            install(locked, "--cache", str(cache), **user)
            assert (cache / CACHE).read_bytes() == expected[1]
            assert tokens(locked, "--cache", str(cache)) == expected[0]
            assert run(locked, "verify", "--cache", str(cache), **user).returncode == 0
            assert others(locked) == set()
            with Model(locked, cache=cache) as model, model.session() as session:
                session.feed([1, 2, 3])
            assert others(locked) == set()
        finally:
            locked.chmod(0o755)


def test_a_cache_folder_that_is_not_there(stored, tmp_path):
    process = run(stored, "install", "--cache", str(tmp_path / "nowhere"))
    assert process.returncode == 1
    assert "no such folder" in process.stderr


def test_a_damaged_stored_tensor_is_not_installed(stored):
    with WeightsReader(stored / "weights.ptd") as reader:
        entry = next(entry for entry in reader.entries if is_stored(entry.header))
    data = bytearray((stored / "weights.ptd").read_bytes())
    data[entry.offset + entry.bytes // 2] ^= 1
    (stored / "weights.ptd").write_bytes(data)
    process = run(stored, "install")
    assert process.returncode == 1
    assert entry.name in process.stderr
    assert "checksum" in process.stderr
    assert others(stored) == set()


def test_memory_of_install_does_not_grow_with_the_model(deep):
    directory = deep(STORED)
    (directory / CACHE).unlink(missing_ok=True)
    result = install(directory)
    assert result["decoded_bytes"] > 10e6
    assert 0 < result["peak_anon_bytes"] < 4e6


def check_prediction(weights: Path) -> None:
    """Bytes that are mapped, by headers alone, against the engine's figures and the cache that is there."""
    with WeightsReader(weights) as reader:
        entries = sorted(reader.entries, key=lambda entry: entry.offset)
        headers = {entry.name: reader.header(entry.name) for entry in entries}
        coded = [name for name, header in headers.items() if header.format is Format.ENTROPY]
        inner = {name: BlobHeader.parse(reader.blob(name).payload) for name in coded}
        predicted = mapped_weights(headers, reader.file_bytes, inner)
    for mapping in ("whole", "layers"):
        with Model(weights, mapping=mapping) as model, model.session() as session:
            memory = session.memory()
            assert memory.touched_file_bytes == predicted.touched
            assert memory.resident_file_bytes == (predicted.touched if mapping == "whole" else predicted.layered)
    size = cache_bytes((n, installed_bytes(h, inner.get(n))) for n, h in headers.items() if is_stored(h))
    cache = weights.with_suffix(".cache")
    assert size == (cache.stat().st_size if cache.exists() else 0)


@pytest.mark.parametrize(
    ("tied", "hidden", "recipe"), [(True, 64, STORED), (False, 192, STORED), (False, 64, "affine-4bit")]
)
def test_the_planner_counts_bytes_as_the_engine_does(tmp_path, tied, hidden, recipe):
    weights = tmp_path / "weights.ptd"
    build_weights(write_llama(tmp_path / "model", hidden, 172, 3, tied), recipe, weights)
    check_prediction(weights)


@pytest.mark.parametrize(
    "codec",
    [STORED, "seedlm-4bit", "seedlm-3bit", "hyper", "affine-4bit+entropy", "raw+entropy", "vptq-2bit+entropy"],
)
def test_every_stored_form_installs_to_what_its_codec_decodes(tmp_path, codec):
    weights = tmp_path / "weights.ptd"
    build_weights(write_llama(tmp_path / "model", 64, 100, 1, tied=False), Recipe(codec, codec), weights)
    with Model(weights) as model, model.session() as session:
        assert np.isfinite(session.feed([1, 2, 3])).all()
    count = 0
    with WeightsReader(weights) as source, WeightsReader(weights.with_suffix(".cache")) as cache:
        for entry, blob in source.blobs():
            if is_stored(entry.header):
                packed = cache.blob(entry.name)
                assert packed.header.format < Format.BASE3
                want, found = codec_for(blob.header).decode(blob), codec_for(packed.header).decode(packed)
                if blob.header.format in (Format.SEEDLM, Format.LATTICE):  # rounded to 8 bits in groups of 32
                    assert np.square(found - want).sum() < 1e-4 * np.square(want).sum()
                else:
                    assert np.array_equal(found, want)
                count += 1
        assert count == len(cache.entries) > 0
    check_prediction(weights)


@pytest.mark.parametrize("recipe", ["raw", STORED])
def test_layers_give_the_same_tokens_in_less_memory(deep, recipe):
    directory = deep(recipe)
    install(directory)

    def generate(mapping: str, *options: str) -> tuple[list[int], dict, dict]:
        process = run(directory, "generate", "--prompt", "once upon a time", "--max-new-tokens", "8", "--ignore-eos",
                      "--json", "--threads", "2", "--mapping", mapping, *options)  # fmt: skip
        assert process.returncode == 0, process.stdout
        events = [json.loads(line) for line in process.stdout.splitlines()]
        return [event["id"] for event in events if event["event"] == "token"], events[0], events[-1]

    whole, whole_load, whole_done = generate("whole")
    layers, layers_load, layers_done = generate("layers")
    assert layers == whole
    assert generate("layers", "--prefill-chunk", "3")[0] == whole
    body = whole_load["predicted"]["file_bytes"]
    # Two layers of twelve, the small tensors and the program itself.
    assert layers_load["predicted"]["file_bytes"] < 0.3 * body
    assert whole_done["memory"]["peak_rss_bytes"] > body
    # The kernel maps up to 2 MiB around a page that is used.
    assert layers_done["memory"]["peak_rss_bytes"] < layers_load["predicted"]["peak_bytes"] + (4 << 20)
    assert layers_done["memory"]["peak_rss_bytes"] < whole_done["memory"]["peak_rss_bytes"]
    assert layers_done["predicted_peak_bytes"] < whole_done["predicted_peak_bytes"]


def test_unknown_mapping_is_bad_usage(bundle):
    process = run(bundle(PACKED), "generate", "--prompt", "a", "--mapping", "half")
    assert process.returncode == 2
    assert "not a value" in process.stderr
