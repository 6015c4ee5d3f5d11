"""ONNX Runtime against the engine: the operator is the engine, so its logits are the engine's bit for bit, however the
text comes: in chunks, again from the start, with a step back, in turns with another."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from contextlib import closing
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
from support.onnx_programs import Decoder, headers, onnx_runner, open_session, runner_environment
from support.paths import EXAMPLE
from support.prompts import prompt_tokens

pytestmark = pytest.mark.full

MIXED = Recipe(
    "vptq-2bit", "affine-4bit", (("*.attention.*", "affine-3bit"), ("layers.0.*", "affine-8bit")), title="mixed"
)
RECIPES = {"affine-4bit": "affine-4bit", "affine-2bit": "affine-2bit", "mixed": MIXED}
LENGTHS = (1, 33, 300)
STEPS = 64
PROMPT = "The history of the city"
NEAR_TIE = "In 1969 the first"
"""Once the first text of those that left the engine's after a near tie, when the graph attended in float32."""


@pytest.fixture(scope="module")
def exported(bundle) -> Callable[..., Path]:
    """exported(recipe, model): a bundle with its model.onnx."""

    def build(recipe: str | Recipe | None = "affine-4bit", model: Path = EXAMPLE) -> Path:
        return bundle(recipe, model, ("native", "onnx"))

    return build


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Callable[[str], Path]:
    """tiny(name): a small random model of the family with its model.onnx."""
    made: dict[str, Path] = {}

    def build(name: str) -> Path:
        if name not in made:
            directory = tmp_path_factory.mktemp(name)
            write_tiny(directory, name, dtype="bfloat16")
            build_weights(directory, "affine-4bit", directory / "weights.ptd")
            export_onnx(directory, "affine-4bit")
            made[name] = directory
        return made[name]

    return build


def source(request: pytest.FixtureRequest, model: str) -> Path:
    return EXAMPLE if model == "wiki-6m" else request.getfixturevalue("shared") / "models" / model


def engine_logits(directory: Path, tokens: list[int]) -> np.ndarray:
    with Model(directory / "weights.ptd") as engine, engine.session() as session:
        return session.feed(tokens).copy()


def same_steps(directory: Path, length: int, **how: int) -> list[int]:
    """A prompt of that many tokens and 64 steps after it: the same bits each time. The tokens."""
    tokens = prompt_tokens(directory, length)
    said: list[int] = []
    decoder = Decoder(directory, **how)
    with Model(directory) as engine, engine.session() as session:
        for _ in range(STEPS + 1):
            expected = session.feed(tokens)
            assert np.array_equal(decoder.feed(tokens), expected)
            tokens = [int(expected.argmax())]
            said += tokens
    return said


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_logits_are_the_engine_s_bit_for_bit(exported, recipe, length):
    """Prompts of 1, 33 and 300 tokens, and 64 steps after each; with a past that grows, and with shared buffers."""
    directory = exported(RECIPES[recipe])
    said = same_steps(directory, length)
    assert len(set(said)) > 3
    assert same_steps(directory, length, shared_buffers=512, chunk=7, threads=1) == said


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model", ["base", "ternary"])
def test_logits_of_larger_models_are_the_engine_s(exported, request, model, recipe):
    directory = exported(RECIPES[recipe], source(request, model))
    for length in LENGTHS:
        same_steps(directory, length)


@pytest.mark.parametrize("name", ALL)
def test_every_architecture_is_the_engine_s(tiny, name):
    """Windows of 24 are left behind, convolutions see what is before a chunk, and a second text follows the first."""
    directory = tiny(name)
    ids = np.random.default_rng(3).integers(0, 512, 60).tolist()
    for decoder in (Decoder(directory), Decoder(directory, shared_buffers=64, chunk=7)):
        with Model(directory / "weights.ptd") as engine:
            for tokens in (ids, ids[::-1]):
                with engine.session() as session:
                    for part in (tokens[:40], tokens[40:41], tokens[41:43], *([i] for i in tokens[43:])):
                        assert np.array_equal(decoder.feed(part), session.feed(part))
                decoder.rewind(0)


@pytest.mark.parametrize("name", ["llama", "gemma3", "lfm2"])
def test_a_step_back_is_as_if_the_rest_had_never_been(tiny, name):
    """Where layers with a window have let go of what stood before, the text is read again."""
    directory = tiny(name)
    ids = np.random.default_rng(4).integers(0, 512, 90).tolist()
    for shared_buffers in (0, 128):
        decoder = Decoder(directory, shared_buffers=shared_buffers)
        decoder.feed(ids[:80])
        for kept in (79, 60, 30, 1):
            decoder.rewind(kept)
            assert np.array_equal(decoder.feed([7, 8, 9]), engine_logits(directory, [*ids[:kept], 7, 8, 9]))
            decoder.rewind(kept)
            decoder.feed(ids[kept:80])
        decoder.rewind(80)
        assert np.array_equal(decoder.feed(ids[80:]), engine_logits(directory, ids))


@pytest.mark.parametrize("name", ["llama", "gemma3", "lfm2"])
def test_two_texts_in_turns_do_not_mix(tiny, name):
    """By one session, whose operator holds one of them at a time, and by two."""
    directory = tiny(name)
    random = np.random.default_rng(5)
    texts = [random.integers(0, 512, 50).tolist() for _ in range(2)]
    texts[1][:20] = texts[0][:20]
    shared = open_session(directory / "model.onnx")
    for pair in (
        [Decoder(directory, session=shared) for _ in range(2)],
        [Decoder(directory, shared_buffers=64, session=shared) for _ in range(2)],
        [Decoder(directory) for _ in range(2)],
    ):
        with Model(directory / "weights.ptd") as engine, engine.session() as first, engine.session() as second:
            for part in (slice(0, 30), *(slice(i, i + 1) for i in range(30, 50))):
                for decoder, session, text in zip(pair, (first, second), texts, strict=True):
                    assert np.array_equal(decoder.feed(text[part]), session.feed(text[part]))


def test_a_caller_without_a_past_gives_the_whole_text_each_time(exported):
    """What the operator holds of it already is not computed again; the logits are those of the text."""
    directory = exported()
    session = open_session(directory / "model.onnx")
    tokens = prompt_tokens(directory, 40)
    empty = {f"past_key_values.0.{part}": np.zeros((1, 1, 0, 1), np.float32) for part in ("key", "value")}
    for end in (30, 31, 32, 40, 40, 12):
        feed = {"input_ids": np.array([tokens[:end]]), "attention_mask": np.ones((1, end), np.int64), **empty}
        (logits,) = session.run(["logits"], feed)
        assert np.array_equal(logits[0, 0], engine_logits(directory, tokens[:end]))


@pytest.mark.parametrize("kv_type", ["int8", "k8v4", "int4", "f16"])
@pytest.mark.parametrize("kernels", ["scalar", None])
def test_the_session_s_entries_are_the_engine_s_options(exported, kv_type, kernels):
    directory = exported()
    tokens = prompt_tokens(directory, 70)
    entries = {"kv_type": kv_type, "context": 80, "mapping": "layers", **({"kernels": kernels} if kernels else {})}
    decoder = Decoder(directory, **entries)
    with Model(directory) as engine, engine.session(kv_type=kv_type, context=80) as session:
        for part in (tokens, [1], [2]):
            assert np.array_equal(decoder.feed(part), session.feed(part))


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"threads": 0}, r"mobile_bundle\.threads must be a whole number above 0, not 0"),
        ({"threads": "two"}, "not two"),
        ({"context": -1}, "not -1"),
        ({"context": "9" * 30}, r"mobile_bundle\.context is too long"),
        ({"context": 100_000}, "trained for 512"),
        ({"kv_type": "int3"}, r"mobile_bundle\.kv_type is one of int8, f16, int4, k8v4, not int3"),
        ({"mapping": "some"}, "one of whole, layers"),
        ({"kernels": "sse"}, "sse"),
        ({"kernels": "x" * 99}, "too long"),
    ],
)
def test_entries_that_cannot_be_are_refused(exported, entries, words):
    with pytest.raises(Exception, match=words):
        open_session(exported() / "model.onnx", entries=entries)


def inputs(ids: object, ones: int, past: object, zeros: int = 0) -> dict[str, np.ndarray]:
    """What a run takes: token ids, the mask's ones and zeros, the past's numbers."""
    mask = np.concatenate([np.ones((1, ones), np.int64), np.zeros((1, zeros), np.int64)], axis=1)
    before = np.array(past, np.float32).reshape(1, 1, -1, 1)
    return {
        "input_ids": np.array(ids, np.int64),
        "attention_mask": mask,
        "past_key_values.0.key": before,
        "past_key_values.0.value": before,
    }


HOLED = {**inputs([[1, 2]], 2, []), "attention_mask": np.array([[1, 0, 1]])}
LEFT = {**inputs([[1, 2]], 2, []), "attention_mask": np.array([[0, 1, 1]])}
WIDE = {**inputs([[1]], 1, []), "past_key_values.0.key": np.zeros((1, 2, 0, 1), np.float32)}


@pytest.mark.parametrize(
    ("feed", "words"),
    [
        (inputs([[]], 0, []), "no tokens were given"),
        (inputs([[1, 2]], 1, []), "attention_mask has 1 ones, but there are 2 new tokens and 0 in the past"),
        (inputs([[1]], 3, [4]), "has 3 ones, but there are 1 new tokens and 1 in the past"),
        (HOLED, "must be ones, then zeros"),
        (LEFT, "must be ones, then zeros"),
        (inputs([[1], [2]], 1, []), "dimension"),
        (WIDE, "dimension"),
        (inputs([[-1]], 1, []), "token -1 is not in the vocabulary of 4096"),
        (inputs([[4096]], 1, []), "token 4096 is not in the vocabulary of 4096"),
        (inputs([[1 << 40]], 1, []), "not in the vocabulary"),
        (inputs([[1]], 2, [0.5]), "the past at 0 is no token"),
        (inputs([[1]], 3, [0, -1]), "the past at 1 is no token"),
        (inputs([[1]], 3, [0, 4096]), "the past at 1 is no token"),
        (inputs([[1]], 2, [float("nan")]), "the past at 0 is no token"),
        (inputs([[1]], 2, [float("inf")]), "the past at 0 is no token"),
        (inputs([[1]], 2, [1e30]), "the past at 0 is no token"),
        (inputs([[1] * 65], 65, []), r"65 tokens do not fit a context of 64.*mobile_bundle\.context"),
        (inputs([[1]], 65, [2] * 64), "65 tokens do not fit a context of 64"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_changes_nothing(exported, feed, words):
    directory = exported()
    decoder = Decoder(directory, context=64)
    decoder.feed([5, 6, 7])
    with pytest.raises(Exception, match=words):
        decoder.session.run(None, feed)
    assert np.array_equal(decoder.feed([8]), engine_logits(directory, [5, 6, 7, 8]))


def test_any_inputs_are_refused_or_give_the_logits_of_their_text(exported):
    """Lengths that fit each other or not, numbers that are tokens or not; one session for all."""
    directory = exported()
    session = open_session(directory / "model.onnx", entries={"context": 64})
    random = np.random.default_rng(0)
    refused: list[str] = []
    with Model(directory) as engine, engine.session(context=64) as reference:
        for _ in range(200):
            new, before = int(random.integers(0, 50)), int(random.integers(0, 30))
            ones = int(random.integers(0, new + before + 1)) if random.random() < 0.6 else new + before
            past = random.integers(0, 4096, before).astype(np.float32)
            if before and random.random() < 0.2:
                past[random.integers(0, before)] = random.choice([np.nan, np.inf, -1, 0.5, 4096, 1e38])
            ids = random.integers(-1 if random.random() < 0.2 else 0, 4096, new)
            try:
                found = session.run(None, inputs(ids[None], ones, past, zeros=int(random.integers(0, 3))))
            except Exception as error:
                refused.append(str(error))
                continue
            text = [*map(int, past[: ones - new]), *map(int, ids)]
            reference.rewind(0)
            assert np.array_equal(found[0][0, 0], reference.feed(text))
            assert found[1].reshape(-1)[:ones].tolist() == text
    assert 50 < len(refused) < 150
    assert all("Decoder node" in reason and "\n" not in reason.strip() for reason in refused)


def test_a_context_may_be_filled_and_not_passed(exported):
    directory = exported()
    decoder = Decoder(directory, context=64)
    tokens = prompt_tokens(directory, 64)
    assert np.array_equal(decoder.feed(tokens), engine_logits(directory, tokens))
    with pytest.raises(Exception, match="65 tokens do not fit a context of 64"):
        decoder.feed([1])


def test_a_mask_of_the_whole_buffer_counts_its_ones(exported):
    directory = exported()
    session = open_session(directory / "model.onnx")
    past = [5, 6, 7, 9, 9, 9]
    found = session.run(None, inputs([[8]], 4, past, zeros=2))
    assert np.array_equal(found[0][0, 0], engine_logits(directory, [5, 6, 7, 8]))
    assert found[1].reshape(-1).tolist() == [5, 6, 7, 8, 0, 0]


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


@pytest.mark.parametrize("kv_type", ["int8", "int4"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_runner_generates_the_engine_s_tokens(exported, recipe, kv_type):
    directory = exported(RECIPES[recipe])
    for prompt in (NEAR_TIE, PROMPT, "In 1984, he", PROMPT * 40):
        arguments = ("--prompt", prompt, "--max-new-tokens", str(STEPS), "--threads", "2", "--kv", kv_type)
        native = generated([str(bundle_runner(directory))], directory, *arguments)
        assert len(native) == STEPS
        assert generated([str(onnx_runner())], directory, *arguments, environment=runner_environment()) == native


def test_the_text_that_once_left_the_engine_s_goes_on_as_the_engine_s(exported):
    directory = exported()
    with closing(Tokenizer(directory / "tokenizer.bin")) as tokenizer:
        tokens = [int(i) for i in tokenizer.encode(NEAR_TIE, special=True)]
    decoder = Decoder(directory)
    said: list[list[int]] = []
    with Model(directory) as engine, engine.session() as session:
        for feed in (session.feed, decoder.feed):
            said.append([int(feed(tokens).argmax())])
            while len(said[-1]) < STEPS:
                said[-1].append(int(feed(said[-1][-1:]).argmax()))
    assert said[0] == said[1]


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
@pytest.mark.parametrize("recipe", ["affine-4bit", "mixed"])
def test_arm64_gives_the_same_tokens(exported, arm64_runner, recipe):
    directory = exported(RECIPES[recipe])
    arguments = ("--prompt", PROMPT, "--max-new-tokens", "16", "--threads", "1")
    native = generated([str(bundle_runner(directory))], directory, *arguments)
    assert generated(arm64_runner, directory, *arguments) == native
