"""ONNX Runtime against the engine: the same weights, so nearly the same logits.

They cannot be the same bits. ONNX Runtime's attention adds in another order, and where activations are rounded to int8
a difference in the last bit can change a code. What that is worth is measured by the engine itself: its own int8 cache
moves the logits as much. Unquantised weights (`raw`) see no such rounding: there the graph is held to 1e-3.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.export.onnx import export_onnx
from mobile_bundle.native.engine import Model
from mobile_bundle.native.programs import bundle_runner
from mobile_bundle.native.tokenizer import Tokenizer
from mobile_bundle.pipeline.weights import build_weights
from mobile_bundle.planning.recipe import Recipe
from support import arm64
from support.checkpoints import ALL, write_tiny
from support.onnx_programs import Decoder, headers, onnx_runner, runner_environment, same_or_tied
from support.paths import EXAMPLE
from support.prompts import prompt_tokens

pytestmark = pytest.mark.full

MIXED = Recipe(
    "vptq-2bit", "affine-4bit", (("*.attention.*", "affine-3bit"), ("layers.0.*", "affine-8bit")), title="mixed"
)
RECIPES = {"affine-8bit": "affine-8bit", "affine-2bit": "affine-2bit", "mixed": MIXED}
LENGTHS = (1, 33, 300)
STEPS = 64
PROMPT = "The history of the city"


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def exported(bundle) -> Callable[..., Path]:
    """exported(recipe, model): a bundle with its model.onnx."""

    def build(recipe: str | Recipe | None = "affine-8bit", model: Path = EXAMPLE) -> Path:
        return bundle(recipe, model, ("native", "onnx"))

    return build


def source(request: pytest.FixtureRequest, model: str) -> Path:
    return EXAMPLE if model == "wiki-6m" else request.getfixturevalue("shared") / "models" / model


def compare(directory: Path, length: int) -> tuple[int, int]:
    """A prompt of that many tokens and 64 steps after it, all three fed the engine's tokens. Returns (steps, steps in
    which the best token is another)."""
    tokens, other = prompt_tokens(directory, length), 0
    distances: list[float] = []
    own: list[float] = []
    decoder = Decoder(directory)
    with Model(directory) as engine, engine.session(kv_type="f16") as half, engine.session(kv_type="int8") as whole:
        for _ in range(STEPS + 1):
            expected, rounded = half.feed(tokens).copy(), whole.feed(tokens).copy()
            logits = decoder.feed(tokens)
            distances.append(relative(logits, expected))
            own.append(relative(rounded, expected))
            best, ours = int(expected.argmax()), int(logits.argmax())
            if ours != best:
                other += 1
                noise = float(np.sqrt(np.mean(np.square(logits - expected))))
                assert expected[best] - expected[ours] < 4 * noise, "a token that the engine does not see as a tie"
            tokens = [best]
    # The greatest seen: 0.024 (3 of 1,755 above 0.02); on average 0.4 to 1.4 %, less than what the int8 cache does.
    assert max(distances) < 4e-2
    assert np.mean(distances) < 2e-2
    assert np.mean(distances) < 1.15 * np.mean(own)
    assert other <= 5
    return len(distances), other


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model", ["wiki-6m", "base", "ternary"])
def test_logits_are_the_engine_s_but_for_rounding(exported, request, model, recipe):
    """Prompts of 1, 33 and 300 tokens from an empty cache, and after them 64 steps on the filled one."""
    directory = exported(RECIPES[recipe], source(request, model))
    for length in LENGTHS:
        steps, other = compare(directory, length)
        print(f"{model} {recipe}, {length} tokens: {other} of {steps} tokens are others")


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("lfm2")])
def test_every_architecture_without_int8_rounding(tmp_path, name):
    """Norms per head, biases, sliding windows, RoPE's scalings, untied heads: raw weights show every mistake."""
    write_tiny(tmp_path, name, dtype="bfloat16")
    build_weights(tmp_path, "raw", tmp_path / "weights.ptd")
    export_onnx(tmp_path, "raw")
    ids = np.random.default_rng(3).integers(0, 512, 60).tolist()
    # BitNet rounds the inputs of unquantised weights, too: one changed code moves a logit of so small a model visibly.
    most, average = (1e-3, 1e-3) if not name.startswith("bitnet") else (1e-1, 3e-2)
    for decoder in (Decoder(tmp_path), Decoder(tmp_path, shared_buffers=64, chunk=7)):
        with Model(tmp_path / "weights.ptd") as engine, engine.session(kv_type="f16") as session:
            parts = (ids[:40], ids[40:41], ids[41:43], *([i] for i in ids[43:]))
            distances = [relative(decoder.feed(part), session.feed(part)) for part in parts]
        assert max(distances) < most
        assert np.mean(distances) < average


def test_a_past_that_grows_and_shared_buffers_are_the_same(exported):
    directory = exported()
    tokens = prompt_tokens(directory, 100)
    growing, shared = Decoder(directory, chunk=32), Decoder(directory, shared_buffers=512, chunk=32)
    assert np.array_equal(growing.feed(tokens[:70]), shared.feed(tokens[:70]))
    first = shared.feed(tokens[70:])
    assert np.array_equal(growing.feed(tokens[70:]), first)
    shared.rewind(70)
    assert np.array_equal(shared.feed(tokens[70:]), first)


def generated(
    command: list[str], directory: Path, *arguments: str, environment: dict[str, str] | None = None
) -> list[int]:
    process = subprocess.run(
        [*command, "generate", str(directory), "--json", "--ignore-eos", *arguments],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    events = [json.loads(line) for line in process.stdout.splitlines()]
    return [event["id"] for event in events if event["event"] == "token"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model", ["wiki-6m", "base", "ternary"])
def test_the_runner_generates_the_engine_s_tokens(exported, request, model, recipe):
    directory = exported(RECIPES[recipe], source(request, model))
    tokenizer = Tokenizer(directory / "tokenizer.bin")
    equal = 0
    prompts = (PROMPT, "In 1984, he", PROMPT * 40)
    for prompt in prompts:
        arguments = ("--prompt", prompt, "--max-new-tokens", str(STEPS), "--threads", "2")
        native = generated([str(bundle_runner(directory))], directory, *arguments, "--kv", "f16")
        ours = generated([str(onnx_runner())], directory, *arguments, environment=runner_environment())
        ids = [int(i) for i in tokenizer.encode(prompt, special=True)]
        decoder = Decoder(directory, shared_buffers=512, chunk=32)
        logits, python = decoder.feed(ids), []
        for _ in range(STEPS):
            python.append(int(logits.argmax()))
            logits = decoder.feed(python[-1:])
        assert ours == python  # one runtime, one graph: the same tokens whoever calls
        equal += same_or_tied(directory, ids, ours, native)
    tokenizer.close()
    print(f"{model} {recipe}: {equal} of {len(prompts)} texts are equal")


@pytest.fixture(scope="module")
def arm64_runner(tmp_path_factory) -> list[str]:
    """mobile-run-onnx for arm64 Linux with ONNX Runtime's own arm64 library, under QEMU."""
    directory = tmp_path_factory.mktemp("onnxruntime-arm64")
    package = arm64.package("onnxruntime==1.32.0", directory / "package") / "onnxruntime"
    build = arm64.build(directory / "build", "mobile-run-onnx", "-DMB_ONNX=ON", f"-DMB_ONNXRUNTIME_INCLUDE={headers()}")
    library = next((package / "capi").glob("libonnxruntime.so*"))
    program = build / "onnxruntime/mobile-run-onnx"
    command = arm64.command(program, [package / "capi"], sysroot=arm64_sysroot(directory / "sysroot"))
    return [*command[:-1], "-E", f"MOBILE_BUNDLE_ONNXRUNTIME={library}", command[-1]]


def arm64_sysroot(directory: Path) -> Path:
    """What ONNX Runtime reads of its processor when it is loaded, as an arm64 machine has it: QEMU would show this
    machine's files, and it then crashes."""
    processor = (
        "processor\t: {}\nBogoMIPS\t: 100.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
        "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd03\nCPU revision\t: 4\n\n"
    )
    (directory / "proc").mkdir(parents=True)
    (directory / "proc/cpuinfo").write_text("".join(processor.format(i) for i in range(2)))
    cpus = directory / "sys/devices/system/cpu"
    for name in ("possible", "present", "online"):
        cpus.mkdir(parents=True, exist_ok=True)
        (cpus / name).write_text("0-1\n")
    (cpus / "kernel_max").write_text("1\n")
    for i in range(2):
        (cpus / f"cpu{i}/topology").mkdir(parents=True)
        (cpus / f"cpu{i}/topology/physical_package_id").write_text("0\n")
        (cpus / f"cpu{i}/topology/core_id").write_text(f"{i}\n")
        (cpus / f"cpu{i}/topology/core_siblings_list").write_text("0-1\n")
        (cpus / f"cpu{i}/topology/thread_siblings_list").write_text(f"{i}\n")
    for library in arm64.SYSROOT.iterdir():
        (directory / library.name).symlink_to(library)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_arm64_gives_the_same_tokens(exported, arm64_runner, recipe):
    directory = exported(RECIPES[recipe])
    arguments = ("--prompt", PROMPT, "--max-new-tokens", "16", "--threads", "1")
    native = generated([str(bundle_runner(directory))], directory, *arguments, "--kv", "f16")
    ours = generated(arm64_runner, directory, *arguments)
    tokenizer = Tokenizer(directory / "tokenizer.bin")
    prompt = [int(i) for i in tokenizer.encode(PROMPT, special=True)]
    tokenizer.close()
    same_or_tied(directory, prompt, ours, native)
