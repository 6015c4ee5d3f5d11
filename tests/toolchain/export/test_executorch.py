"""model.pte in ExecuTorch: its Python runtime, its own LLM runner, mobile-run-executorch; x86-64 and arm64."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.errors import UserError
from mobile_bundle.export.executorch import export_executorch, metadata
from mobile_bundle.models.spec import ModelConfig
from mobile_bundle.native.engine import Model
from mobile_bundle.native.library import package_file
from mobile_bundle.planning.recipe import Recipe
from mobile_bundle.runtimes import runner_command
from support import arm64
from support.damage import overflowing
from support.events import events_of
from support.paths import EXAMPLE
from support.prompts import prompt_tokens

pytestmark = pytest.mark.full

PROMPT = "The history of the city"
MIXED = Recipe(
    "vptq-2bit", "affine-4bit", (("*.attention.*", "affine-3bit"), ("layers.0.*", "affine-8bit")), title="mixed"
)
RECIPES = {"affine-8bit": "affine-8bit", "affine-2bit": "affine-2bit", "mixed": MIXED}
STEPS = 64


class Program:
    """forward of a model.pte in ExecuTorch's Python runtime."""

    def __init__(self, directory: Path, weights: Path | None = None) -> None:
        from executorch.extension.pybindings import portable_lib

        ctypes.CDLL(str(package_file("lib", "libmobile_bundle_executorch.so")))
        self.module = portable_lib._load_for_executorch(
            str(directory / "model.pte"), str(weights or directory / "weights.ptd")
        )

    def feed(self, tokens: list[int], position: int) -> np.ndarray:
        import torch

        return self.module.forward([torch.tensor([tokens]), torch.tensor([position])])[0].numpy()[0]


def tokens_of(command: list[str], directory: Path, *arguments: str) -> list[int]:
    process = subprocess.run(
        [*command, "generate", str(directory), "--json", "--ignore-eos", *arguments],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    events = events_of(process.stdout)
    return [event["id"] for event in events if event["event"] == "token"]


def error_of(command: list[str], directory: Path, *arguments: str) -> tuple[int, str]:
    process = subprocess.run(
        [*command, "generate", str(directory), "--prompt", PROMPT, "--json", *arguments],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stderr == ""
    (event,) = events_of(process.stdout)
    assert event["event"] == "error"
    return process.returncode, event["message"]


@pytest.fixture(scope="module")
def exported(bundle) -> Callable[..., Path]:
    """exported(recipe, model): a bundle with its model.pte."""

    def build(recipe: str | Recipe | None = "affine-4bit", model: Path = EXAMPLE) -> Path:
        return bundle(recipe, model, ("native", "executorch"))

    return build


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model", ["wiki-6m", "base", "ternary"])
def test_logits_are_the_engine_s_bit_for_bit(exported, request, model, recipe):
    """Prompts of 1, 33 and 300 tokens from an empty cache, and after them 64 greedy steps on the filled one."""
    source = EXAMPLE if model == "wiki-6m" else request.getfixturevalue("shared") / "models" / model
    directory = exported(RECIPES[recipe], source)
    program = Program(directory)
    with Model(directory) as engine:
        for length in (1, 33, 300):
            tokens = prompt_tokens(directory, length)
            with engine.session() as session:
                position = 0
                for _ in range(STEPS + 1):
                    expected = session.feed(tokens)
                    assert np.array_equal(program.feed(tokens, position), expected)
                    position += len(tokens)
                    tokens = [int(expected.argmax())]


def test_a_position_goes_back(exported):
    directory = exported()
    program, tokens = Program(directory), prompt_tokens(exported(), 40)
    program.feed(tokens, 0)
    again = program.feed(tokens[10:20], 10)
    with Model(directory) as model, model.session() as session:
        assert np.array_equal(again, session.feed(tokens[:20]))
    assert np.array_equal(program.feed(tokens, 0), Program(directory).feed(tokens, 0))


def test_metadata_is_what_executorch_s_runner_asks_for(exported):
    directory = exported()
    with WeightsReader(directory / "weights.ptd") as weights:
        config = ModelConfig.parse(weights.config)
    values = metadata(config)
    assert values["get_vocab_size"] == 4096
    assert values["get_max_context_len"] == 512
    assert values["get_eos_ids"] == list(config.eos)
    module = Program(directory).module
    for name, value in values.items():
        found = module.run_method(name)
        assert (found if isinstance(value, list) else found[0]) == value


@pytest.mark.parametrize("recipe", ["affine-4bit", "bitnet-1.6bit", "affine-4bit+entropy"])
def test_the_stock_llm_runner_generates_the_same_text(exported, recipe):
    """ExecuTorch's TextLLMRunner with Hugging Face's tokenizer.json, our backend, and weights in one weights.ptd."""
    from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

    directory = exported(recipe)
    Program(directory)  # registers the backend
    text: list[str] = []
    runner = TextLLMRunner(
        str(directory / "model.pte"), str(EXAMPLE / "tokenizer.json"), str(directory / "weights.ptd")
    )
    config = GenerationConfig(max_new_tokens=24, temperature=0.0, echo=False, num_bos=1)
    runner.generate(PROMPT, config, text.append, None)
    process = subprocess.run(
        [*runner_command(directory, "native"), "generate", str(directory), "--prompt", PROMPT, "--max-new-tokens",
         "24"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "".join(text).strip() == process.stdout.strip()


def test_the_program_is_small_and_the_same_every_time(exported, tmp_path):
    directory = exported()
    shutil.copy(directory / "weights.ptd", tmp_path)
    export_executorch(tmp_path)
    data = (directory / "model.pte").read_bytes()
    assert (tmp_path / "model.pte").read_bytes() == data
    assert len(data) < 16 << 10
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["runtimes"] == {"executorch": {"version": "1.5.1"}}
    assert manifest["files"]["model.pte"]["bytes"] == len(data)


def test_a_foreign_or_missing_weights_file_is_refused(exported, tmp_path, capfd):
    directory, other = exported(), exported("affine-8bit")
    with pytest.raises(RuntimeError):
        Program(directory, other / "weights.ptd").feed([0], 0)
    assert "does not belong to this model.pte" in capfd.readouterr().err
    from executorch.extension.pybindings import portable_lib

    with pytest.raises(RuntimeError):
        portable_lib._load_for_executorch(str(directory / "model.pte")).forward([])
    assert "needs its weights.ptd" in capfd.readouterr().err
    with pytest.raises(RuntimeError):
        portable_lib._load_for_executorch_from_buffer(
            (directory / "model.pte").read_bytes(), (directory / "weights.ptd").read_bytes()
        ).forward([])
    assert "from memory" in capfd.readouterr().err


def test_what_does_not_fit_is_an_error_and_the_program_goes_on(exported, capfd):
    directory = exported()
    program = Program(directory)
    first = program.feed([0, 5], 0).copy()
    for tokens, position, words in (
        ([5], 7, "feed what is between"),
        ([5], -1, "feed what is between"),
        ([4096], 2, "not in the vocabulary"),
        ([-1], 2, "not in the vocabulary"),
        ([1 << 40], 2, "not in the vocabulary"),
        ([5] * 511, 2, "do not fit"),
    ):
        with pytest.raises(RuntimeError):
            program.feed(tokens, position)
        assert words in capfd.readouterr().err
    assert np.array_equal(program.feed([0, 5], 0), first)


def test_a_damaged_program_is_refused(exported, tmp_path):
    directory = exported()
    shutil.copytree(directory, tmp_path / "b.mbundle")
    whole = (directory / "model.pte").read_bytes()
    at = whole.rindex(b"MBPR")
    changed = whole[: at + 4] + (9).to_bytes(4, "little") + whole[at + 8 :]
    command = runner_command(directory, "executorch")
    for data, words in ((whole[:100], ""), (b"", ""), (changed, "another version"), (whole[: len(whole) // 2], "")):
        (tmp_path / "b.mbundle/model.pte").write_bytes(data)
        status, message = error_of(command, tmp_path / "b.mbundle")
        assert status == 1
        assert words in message
        assert "\n" not in message
    (tmp_path / "b.mbundle/model.pte").unlink()
    assert "--formats executorch" in error_of(command, tmp_path / "b.mbundle")[1]


@pytest.mark.parametrize("recipe", ["affine-4bit", "affine-8bit", "bitnet-1.6bit"])
@pytest.mark.parametrize("options", [(), ("--kv", "f16"), ("--mapping", "layers"), ("--prefill-chunk", "7")])
def test_the_runner_gives_mobile_run_s_tokens(exported, recipe, options):
    directory = exported(recipe)
    arguments = ("--prompt", PROMPT * 20, "--max-new-tokens", "64", "--threads", "2", *options)
    native = tokens_of(runner_command(directory, "native"), directory, *arguments)
    assert len(native) == 64
    assert tokens_of(runner_command(directory, "executorch"), directory, *arguments) == native


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--context", "9999"), "trained for 512"),
        (("--threads", "65"), "64 at most"),
        (("--kernels", "none"), "no none kernels"),
    ],
)
def test_the_runner_refuses_what_mobile_run_refuses(exported, options, words):
    directory = exported()
    assert error_of(runner_command(directory, "executorch"), directory, *options) == error_of(
        runner_command(directory, "native"), directory, *options
    )
    assert words in error_of(runner_command(directory, "executorch"), directory, *options)[1]


def test_peak_memory_is_mobile_run_s_and_the_runtime_s_own(exported):
    """The floor is what the process takes before it loads anything; the rest is predicted as for mobile-run."""
    directory = exported()
    process = subprocess.run(
        [*runner_command(directory, "executorch"), "generate", str(directory), "--prompt", PROMPT * 12,
         "--max-new-tokens", "600", "--ignore-eos", "--json", "--threads", "2"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    done = json.loads(process.stdout.splitlines()[-1])
    assert done["memory"]["peak_rss_bytes"] == pytest.approx(done["predicted_peak_bytes"], rel=0.2)


def test_a_bundle_without_the_program_says_how_to_get_it(bundle):
    with pytest.raises(UserError, match="`formats` native,executorch"):
        runner_command(bundle("affine-4bit"), "executorch")


@pytest.mark.parametrize("sampling", [(), ("--temperature", "0.8")])
def test_values_that_are_not_finite_end_an_answer_as_mobile_run_s_do(exported, tmp_path, sampling):
    directory = overflowing(exported("raw"), tmp_path / "b.mbundle")
    process = subprocess.run(
        [*runner_command(directory, "executorch"), "generate", str(directory), "--prompt", PROMPT, "--json", *sampling],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.returncode == 1
    events = events_of(process.stdout)
    assert [event["event"] for event in events] == ["load", "prompt", "error"]
    assert events[-1]["kind"] == "numeric"


@pytest.fixture(scope="module")
def arm64_runner(tmp_path_factory) -> Iterator[list[str]]:
    """mobile-run-executorch for arm64 Linux with ExecuTorch's own arm64 libraries, under QEMU."""
    directory = tmp_path_factory.mktemp("executorch-arm64")
    package = arm64.package("executorch==1.5.1", directory / "package") / "executorch"
    build = arm64.build(
        directory / "build", "mobile-run-executorch", "-DMB_EXECUTORCH=ON", f"-Dexecutorch_DIR={package}/share/cmake"
    )
    return arm64.command(build / "executorch/mobile-run-executorch", [package / "lib"])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_arm64_gives_the_same_tokens(exported, arm64_runner, recipe):
    directory = exported(RECIPES[recipe])
    arguments = ("--prompt", PROMPT, "--max-new-tokens", "16", "--threads", "1")
    native = tokens_of(runner_command(directory, "native"), directory, *arguments)
    assert tokens_of(arm64_runner, directory, *arguments) == native
