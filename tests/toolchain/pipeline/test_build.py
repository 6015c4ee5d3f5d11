"""Building: recipes, weights, whole bundles, and builds that are cut short."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.codecs import codec_for
from mobile_bundle.container import WeightsReader, read_manifest
from mobile_bundle.container.manifest import schema
from mobile_bundle.container.verify import verify_bundle
from mobile_bundle.container.weights import WeightsLayout
from mobile_bundle.errors import UserError
from mobile_bundle.models import TensorSpec, open_model
from mobile_bundle.native.programs import runner_paths
from mobile_bundle.pipeline.weights import build_weights
from mobile_bundle.planning.assignment import assign_codecs, plan_weights
from mobile_bundle.planning.recipe import Recipe, default_recipe, named_recipe, recipe_names, tensor_codec
from support.builds import build, bundle, notes_of
from support.checkpoints import TINY, pack_bitnet, write_synthetic, write_tiny
from support.paths import EXAMPLE, ROOT, STORIES

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("checkpoints") / "tiny-llama", "llama", "bfloat16")


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("recipe", [None, "raw", "affine-2bit"])
def test_every_architecture_becomes_weights(tmp_path: Path, name: str, recipe: str | None) -> None:
    model_dir = write_tiny(tmp_path / "m", name)
    records = {record.name: record for record in build_weights(model_dir, recipe, tmp_path / "weights.ptd")}
    with open_model(model_dir) as model, WeightsReader(tmp_path / "weights.ptd") as weights:
        assert weights.config == model.spec.to_config_bytes()
        assert set(records) == {entry.name for entry in weights.entries} == {t.name for t in model.tensors}
        for tensor in model.tensors:
            blob = weights.blob(tensor.name)
            expected = np.concatenate(list(model.source(tensor).chunks(64)))
            decoded = codec_for(blob.header).decode(blob)
            record = records[tensor.name]
            assert (record.rows, record.columns) == expected.shape == decoded.shape
            assert record.bytes == len(blob.to_bytes())
            error = np.square(decoded - expected).sum(dtype=np.float64) / np.square(expected).sum(dtype=np.float64)
            assert record.relative_error == pytest.approx(error, rel=1e-3, abs=1e-8)
            if tensor.role == "vector":
                np.testing.assert_array_equal(decoded, expected)
            elif model.spec.ternary and tensor.role == "body" and recipe != "raw":
                np.testing.assert_array_equal(decoded, expected)
                assert record.codec == "bitnet"


ROUNDING = ["raw", "affine-8bit", "affine-6bit", "affine-5bit", "affine-4bit", "affine-3bit", "affine-2bit", "bitnet"]
"""The recipes that take no search, from the largest to the smallest."""


def test_recipes(llama: Path, tmp_path: Path) -> None:
    assert set(recipe_names()) >= set(ROUNDING)
    sizes = {}
    for name in ROUNDING:
        records = {record.name: record for record in build_weights(llama, name, tmp_path / "w")}
        sizes[name] = (tmp_path / "w").stat().st_size
        assert records["layers.0.mlp.up.weight"].codec == ("affine-2bit-g64-asym" if name == "affine-2bit" else name)
        assert records["norm.weight"].codec == "f32"
        kept = records["embedding.weight"]
        assert kept.codec == (name if name in ROUNDING[:4] else "affine-4bit")
    assert sorted(sizes, key=lambda name: -sizes[name]) == ROUNDING
    with open_model(llama) as model:
        for columns, group in ((128, 128), (64, 64), (576, 64), (960, 128), (1536, 128), (30, 32)):
            wide = TensorSpec("x", "x", "body", 16, columns)
            assert tensor_codec(named_recipe("affine-2bit"), model.spec, wide).group == group
        assert default_recipe(model.spec).name == "affine-4bit"
    assert named_recipe("bitnet", "affine-8bit").name == "bitnet+affine-8bit"
    assert named_recipe("bitnet+affine-8bit") == Recipe("bitnet", "affine-8bit")
    assert named_recipe("bitnet").name == "bitnet"
    with pytest.raises(UserError, match="unknown recipe 'nothing'; known: raw, affine-8bit"):
        named_recipe("nothing")
    with pytest.raises(UserError, match="unknown codec"):
        named_recipe("bitnet", "x")


def test_a_ternary_checkpoint_is_stored_as_it_is(tmp_path: Path) -> None:
    master = write_tiny(tmp_path / "master", "bitnet")
    packed = pack_bitnet(master, tmp_path / "packed")
    from_packed = build_weights(packed, None, tmp_path / "packed.ptd")
    body = [record for record in from_packed if record.codec == "bitnet"]
    assert len(body) == 3 * 7
    assert all(record.relative_error == 0 for record in body)
    assert next(record for record in from_packed if record.name == "embedding.weight").codec == "affine-8bit"
    for recipe in ("affine-4bit", "affine-2bit", "bitnet"):
        records = build_weights(packed, recipe, tmp_path / "w")
        assert sum(record.codec == "bitnet" for record in records) == 3 * 7
    raw = build_weights(packed, "raw", tmp_path / "w")
    assert {record.codec for record in raw} == {"raw", "f32"}


def test_sizes_are_known_beforehand(llama: Path, tmp_path: Path) -> None:
    for name in ROUNDING:
        build_weights(llama, name, tmp_path / "w")
        with open_model(llama) as model:
            planned = plan_weights(model.tensors, assign_codecs(model.tensors, model.spec, named_recipe(name)))
            assert WeightsLayout(planned).file_bytes == (tmp_path / "w").stat().st_size


def test_progress_counts_every_weight_once(llama: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    records = build_weights(llama, "raw", tmp_path / "w", lambda done, total, name: calls.append((done, total, name)))
    assert [done for done, _, _ in calls] == sorted({done for done, _, _ in calls})
    assert calls[-1][0] == calls[-1][1] == sum(record.rows * record.columns for record in records)
    assert {name for _, _, name in calls} == {record.name for record in records}


FILES = ("weights.ptd", "tokenizer.bin")


def test_a_bundle(llama: Path, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    model = tmp_path / "wiki"
    shutil.copytree(llama, model)
    (model / "README.md").write_text("---\nlanguage: en\nlicense: cc-by-sa-4.0\n---\nhello\n")
    (model / "generation_config.json").write_text('{"temperature": 0.5, "eos_token_id": 0, "x": "y", "top_k": null}')
    out = tmp_path / "wiki.mbundle"
    manifest = bundle(model, out, "affine-4bit", formats=("native",))
    assert read_manifest(out) == manifest
    jsonschema.validate(manifest, schema())
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    runners = {f"bin/{abi}/mobile-run" for abi in runner_paths()}
    assert names == {"manifest.json", "weights.ptd", "tokenizer.bin"} | runners
    assert (out / "bin/x86_64/mobile-run").stat().st_mode & 0o777 == 0o755
    assert manifest["bytes"] == sum(file["bytes"] for file in manifest["files"].values())
    assert manifest["model"]["name"] == "wiki"
    assert (manifest["model"]["bos"], manifest["model"]["eos"]) == (1, [0])
    assert manifest["generation"] == {"temperature": 0.5}
    assert manifest["licence"] == "cc-by-sa-4.0"
    assert manifest["recipe"] == "affine-4bit"
    assert manifest["chat_template"] is False
    assert notes_of(manifest) == ["the model has no chat template"]
    assert manifest["predicted"]["file_bytes"] == sum((out / name).stat().st_size for name in FILES)
    with open_model(model) as opened, WeightsReader(out / "weights.ptd") as weights:
        assert manifest["model"]["parameters"] == opened.parameters
        assert weights.config == opened.spec.with_tokens(1, (0,)).to_config_bytes()
    assert set(verify_bundle(out)) == names


def test_verify_finds_damage(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.mbundle"
    manifest = bundle(llama, out)
    verify_bundle(out)
    data = bytearray((out / "weights.ptd").read_bytes())
    data[-70] ^= 1
    (out / "weights.ptd").write_bytes(data)
    with pytest.raises(UserError, match="checksum of tensor"):
        verify_bundle(out)
    manifest["files"]["weights.ptd"]["sha256"] = hashlib.sha256(data).hexdigest()
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="checksum of tensor"):
        verify_bundle(out)
    data[-70] ^= 1
    (out / "weights.ptd").write_bytes(data)
    manifest["files"]["weights.ptd"]["sha256"] = hashlib.sha256(data).hexdigest()
    manifest["tensors"][3]["rows"] += 1
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="does not hold the tensors"):
        verify_bundle(out)


def test_a_separate_input_embedding_is_not_counted_as_mapped(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "m", "llama-untied-biases")
    manifest = bundle(model, tmp_path / "x.mbundle")
    tensors = {tensor["name"]: tensor for tensor in manifest["tensors"]}
    expected = manifest["files"]["weights.ptd"]["bytes"] - tensors["embedding.weight"]["bytes"]
    assert manifest["predicted"]["file_bytes"] == expected + manifest["files"]["tokenizer.bin"]["bytes"]


def test_errors_leave_no_bundle(llama: Path, tmp_path: Path) -> None:
    """Only the parts that were finished before the error stay, for the next build to go on from."""
    broken = tmp_path / "broken"
    shutil.copytree(llama, broken)
    data = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(data[:-2] + b"\x80\x7f")  # an infinity
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UserError, match="NaN or infinite"):
        bundle(broken, out / "x.mbundle")
    with pytest.raises(UserError, match="NaN or infinite"):
        build_weights(broken, "raw", out / "weights.ptd")
    assert {path.name for path in out.iterdir()} <= {"x.mbundle.parts", "weights.ptd.parts"}
    for parts in list(out.iterdir()):
        shutil.rmtree(parts)
    with pytest.raises(UserError, match="unknown recipe"):
        bundle(llama, out / "x.mbundle", "nothing")
    assert list(out.iterdir()) == []


def test_a_shape_in_shards(tmp_path: Path) -> None:
    """Llama-2-7B's layout, small: shards with an index, a head of its own; one tensor is larger than a shard may be."""
    model = write_synthetic(tmp_path / "m", "small-llama", shard=6e6)
    assert len(list(model.glob("model-*-of-00003.safetensors"))) == 3
    manifest = bundle(model, tmp_path / "x.mbundle", "bitnet")
    verify_bundle(tmp_path / "x.mbundle")
    assert manifest["model"]["tied"] is False
    assert manifest["model"]["parameters"] == 2 * 32000 * 128 + 3 * (4 * 128 * 128 + 3 * 128 * 344 + 256) + 128
    assert not [note for note in manifest["notes"] if "not part of" in note]  # test_given_up.py has such a note


def test_an_estimate_is_what_the_build_gives(tmp_path: Path) -> None:
    from mobile_bundle.planning.estimate import checkpoint_shape, estimate_bundle

    for name in ("raw", "affine-2bit", "bitnet-1.6bit"):
        row = estimate_bundle(checkpoint_shape(EXAMPLE), name)
        out = tmp_path / f"{name}.mbundle"
        manifest = build(EXAMPLE, out, name, formats=("native",))
        assert row.bytes == manifest["bytes"]
        assert row.bits_per_weight == manifest["bits_per_weight"]
        assert row.predicted.peak_bytes == manifest["predicted"]["peak_bytes"]
        assert row.min_device_ram_gb == manifest["min_device_ram_gb"]


def test_estimates_of_shapes() -> None:
    """What published models must come to: their parameters, and the size of their bf16 weights."""
    from mobile_bundle.planning.estimate import estimate_bundle, published_shape, shape_names

    parameters = {
        "smollm2-135m": 134_515_008, "gemma-3-270m": 268_098_176, "granite-4-350m": 352_379_904,
        "lfm2-350m": 354_483_968, "ernie-0.3b": 360_748_032, "smollm2-360m": 361_821_120, "0.5b": 494_032_768,
        "hunyuan-0.5b": 539_010_048, "qwen3-0.6b": 596_049_920, "bitnet-0.7b": 728_842_752, "lfm2-700m": 742_489_344,
        "gemma-3-1b": 999_885_952, "tinyllama": 1_100_048_384, "lfm2-1.2b": 1_170_340_608,
        "llama-3.2-1b": 1_235_814_400, "exaone-1.2b": 1_279_391_488, "minicpm-1b": 1_360_246_272,
        "olmo-2-1b": 1_484_916_736, "1.5b": 1_543_714_304, "granite-4-1b": 1_631_750_144, "qwen3-1.7b": 1_720_574_976,
        "hunyuan-1.8b": 1_791_080_448, "bitnet-2b": 2_412_820_480, "granite-2b": 2_533_539_840,
        "gemma-2-2b": 2_614_341_888, "smollm3-3b": 3_075_098_624, "3b": 3_085_938_688, "phi-4-mini": 3_836_021_760,
        "7b": 6_738_415_616, "mistral-7b": 7_241_732_096,
    }  # fmt: skip
    assert shape_names() == list(parameters)
    for name, count in parameters.items():
        subject = published_shape(name)
        assert subject.parameters == count
        raw = estimate_bundle(subject, "raw")
        assert raw.bytes - subject.tokenizer_bytes == pytest.approx(2 * count, rel=0.02)
        half = estimate_bundle(subject, "raw", bandwidth=2e9)
        assert raw.tokens_per_second == pytest.approx(2 * half.tokens_per_second)
        previous = raw
        for recipe in ("affine-8bit", "affine-4bit", "bitnet"):
            if subject.spec.ternary:  # whose body is ternary in every recipe
                break
            row = estimate_bundle(subject, recipe)
            assert row.bytes < previous.bytes
            assert row.tokens_per_second > previous.tokens_per_second
            assert row.cache_bytes == 0
            assert row.predicted.peak_bytes > row.layers_peak_bytes > row.predicted.anon_bytes
            previous = row
        if subject.spec.ternary:
            continue
        stored = estimate_bundle(subject, "bitnet-1.6bit")
        assert stored.bytes < previous.bytes < stored.bytes + stored.cache_bytes
        # installed it is bitnet; the gaps behind the layers of the two files differ
        gaps = 16384 * (subject.spec.layers + 2)
        assert stored.bytes_per_token == pytest.approx(previous.bytes_per_token, abs=gaps)
    assert estimate_bundle(published_shape("1.5b"), "bitnet").bytes < 480e6
    assert estimate_bundle(published_shape("7b"), "bitnet", context=512).layers_peak_bytes < 1e9


CUT_SHORT = """
import os, resource, signal, sys
sys.path.insert(0, sys.argv[4])
from pathlib import Path
from support.builds import bundle
if sys.argv[3] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
    from mobile_bundle.errors import UserError
    try:
        bundle(Path(sys.argv[1]), Path(sys.argv[2]), "raw")
    except UserError as error:
        print(error)
        raise SystemExit(1)
else:
    calls = int(sys.argv[3])
    def progress(step):
        global calls
        calls -= 1
        if calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    bundle(Path(sys.argv[1]), Path(sys.argv[2]), "raw", progress=progress)
"""


def cut_short(model: Path, out: Path, when: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CUT_SHORT, str(model), str(out), when, str(ROOT / "tests")],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.serial
def test_a_full_disk(llama: Path, tmp_path: Path) -> None:
    result = cut_short(llama, tmp_path / "x.mbundle", "full")
    assert result.returncode == 1, result.stderr
    assert "no room for" in result.stdout
    assert result.stdout.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.mbundle.parts"]  # small tensors found room
    assert not list((tmp_path / "x.mbundle.parts").glob("*.tmp"))


@pytest.mark.serial
def test_kill_in_the_middle(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.mbundle"
    first = bundle(llama, out, "affine-4bit")
    for calls in ("1", "12", "28"):
        assert cut_short(llama, out, calls).returncode == -signal.SIGKILL
        assert read_manifest(out) == first
        verify_bundle(out)
        left, parts = sorted(path for path in tmp_path.iterdir() if path != out)
        assert parts.name == "x.mbundle.parts"
        assert left.name.startswith(".x.mbundle.partial-")
        assert not (left / "manifest.json").exists()
        assert not (left / "weights.ptd").exists()
    second = bundle(llama, out, "raw")
    assert second["recipe"] == "raw"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("name", ["wiki-6m", "stories260k", "ternary"])
def test_trained_models(tmp_path: Path, request: pytest.FixtureRequest, name: str) -> None:
    local = {"wiki-6m": EXAMPLE, "stories260k": STORIES}
    source = local.get(name) or request.getfixturevalue("shared") / "models" / name
    records = build_weights(source, None, tmp_path / "weights.ptd")
    worst = max(record.relative_error for record in records)
    assert worst < (1e-4 if name == "ternary" else 0.012)
    with WeightsReader(tmp_path / "weights.ptd") as weights:
        weights.verify()


MEMORY = """
import resource, sys
from mobile_bundle.pipeline.weights import build_weights
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
build_weights(sys.argv[1], "bitnet", sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.serial
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """A vocabulary of 152 k: the embedding alone is 78 MB as float32."""
    write_synthetic(tmp_path / "m", "small")
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "m"), str(tmp_path / "w")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 40_000  # kB
