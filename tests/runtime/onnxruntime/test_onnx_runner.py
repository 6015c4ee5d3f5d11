"""mobile-run-onnx as its users meet it: mobile-run's events and options, its own errors."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mobile_bundle.native.programs import bundle_runner
from support.damage import overflowing
from support.events import events_of
from support.onnx_programs import onnx_library, onnx_runner, runner_environment
from support.serve import prompt_of, serving

pytestmark = pytest.mark.full

PROMPT = "The history of the city"


@pytest.fixture(scope="module")
def exported(bundle) -> Callable[..., Path]:
    """exported(recipe): a bundle with its model.onnx."""

    def build(recipe: str = "affine-4bit") -> Path:
        return bundle(recipe, formats=("native", "onnx"))

    return build


def run(
    directory: Path,
    *arguments: str,
    command: str = "generate",
    stdin: str = "",
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(onnx_runner()), command, str(directory), *arguments],
        capture_output=True, text=True, input=stdin, timeout=120, env=environment or runner_environment(),
    )  # fmt: skip


def events(process: subprocess.CompletedProcess) -> list[dict]:
    return events_of(process.stdout)


def error(process: subprocess.CompletedProcess) -> str:
    assert process.stderr == ""
    (event,) = events(process)
    assert event["event"] == "error"
    assert "\n" not in event["message"]
    return event["message"]


def test_events_are_mobile_run_s(exported):
    directory = exported()
    arguments = ("--prompt", PROMPT, "--max-new-tokens", "20", "--json", "--ignore-eos")
    ours = events(run(directory, *arguments))
    native = subprocess.run(
        [str(bundle_runner(directory)), "generate", str(directory), *arguments],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    theirs = events(native)
    assert theirs[-1].pop("state_bytes") > 0  # ONNX Runtime's session has no state that a file could hold
    assert [(event["event"], sorted(event)) for event in ours] == [(event["event"], sorted(event)) for event in theirs]
    assert ours[0]["runtime"] == "onnx"
    assert ours[0]["kernels"] == theirs[0]["kernels"]


@pytest.mark.parametrize(
    "options", [(), ("--kv", "k8v4", "--mapping", "layers"), ("--kv", "int4", "--kernels", "scalar")]
)
def test_serve_gives_mobile_run_s_answers(exported, monkeypatch, options):
    """Texts that share their beginning, one that does not, and the first again; it keeps as much of each."""
    directory = exported()
    monkeypatch.setenv("MOBILE_BUNDLE_ONNXRUNTIME", runner_environment()["MOBILE_BUNDLE_ONNXRUNTIME"])
    with serving(directory, *options) as native, serving(directory, *options, program=onnx_runner()) as ours:
        for text in (PROMPT * 3, PROMPT * 3 + ", which", "In 1969 the first", PROMPT * 3):
            theirs, said = (server.ask(prompt=text, max_new_tokens=12, ignore_eos=True) for server in (native, ours))
            assert [event.get("id") for event in said] == [event.get("id") for event in theirs]
            assert len(said) == 12 + 2
            assert prompt_of(said)["kept_tokens"] == prompt_of(theirs)["kept_tokens"]
        refused = ours.ask(save="state")
        assert refused[-1]["event"] == "error"
        assert "mobile-run-onnx cannot keep states" in refused[-1]["message"]


@pytest.mark.parametrize("length", [1, 40])
def test_peak_memory_is_as_predicted(exported, length):
    done = events(run(exported(), "--prompt", PROMPT * length, "--max-new-tokens", "64", "--ignore-eos", "--json"))[-1]
    assert done["memory"]["peak_rss_bytes"] == pytest.approx(done["predicted_peak_bytes"], rel=0.15)


def test_bench_starts_again_from_an_empty_cache(exported):
    for arguments in (("-p", "100"), ("-n", "20")):
        process = run(exported(), *arguments, "-r", "2", "--json", command="bench")
        assert process.returncode == 0
        assert len(events(process)[-1]["tokens_per_second"]) == 2


def test_any_chunk_and_any_number_of_threads_give_the_same_text(exported):
    texts = set()
    for options in ((), ("--threads", "1"), ("--threads", "3"), ("--prefill-chunk", "32")):
        process = run(exported("raw"), "--prompt", PROMPT * 9, "--max-new-tokens", "32", "--ignore-eos", *options)
        assert process.returncode == 0
        texts.add(process.stdout)
    assert len(texts) == 1


def test_cancel_stops_a_long_prompt(exported, tmp_path):
    (tmp_path / "prompt.txt").write_text("the " * 400)
    process = run(
        exported("raw"), "--prompt-file", str(tmp_path / "prompt.txt"), "--json", "--threads", "1",
        "--prefill-chunk", "1", stdin="cancel\n",
    )  # fmt: skip
    assert process.returncode == 0, process.stdout
    done = events(process)[-1]
    assert done["event"] == "done"
    assert done["reason"] == "cancelled"


def test_the_context_ends_an_answer(exported):
    done = events(run(exported(), "--prompt", PROMPT, "--context", "24", "--json", "--ignore-eos"))[-1]
    assert done["reason"] == "context"
    assert done["prompt_tokens"] + done["tokens"] == 24 + 1


def test_stored_forms_are_installed_into_the_folder_of_the_cache(exported, tmp_path):
    directory = tmp_path / "b.mbundle"
    shutil.copytree(exported("bitnet-1.6bit"), directory, ignore=shutil.ignore_patterns("weights.cache"))
    arguments = ("--prompt", PROMPT, "--max-new-tokens", "8", "--json")
    (tmp_path / "cache").mkdir()
    process = run(directory, *arguments, "--cache", str(tmp_path / "cache"))
    assert process.returncode == 0, process.stdout
    assert events(process)[0]["event"] == "install"
    assert not (directory / "weights.cache").exists()
    tokens = [event for event in events(process) if event["event"] == "token"]
    packed = events(run(exported("bitnet"), *arguments))
    assert tokens == [event for event in packed if event["event"] == "token"]


def test_what_is_missing_or_foreign_is_one_line(exported, tmp_path):
    directory = exported()
    arguments = ("--prompt", PROMPT, "--json")
    assert "--runtime-library" in error(run(directory, *arguments, "--runtime-library", str(tmp_path / "none.so")))
    foreign = error(run(directory, *arguments, "--runtime-library", str(onnx_library())))
    assert foreign.startswith(f"{onnx_library()} is not ONNX Runtime")
    unset = {key: value for key, value in runner_environment().items() if key != "MOBILE_BUNDLE_ONNXRUNTIME"}
    assert "cannot be loaded" in error(run(directory, *arguments, environment=unset))
    copy = tmp_path / "b.mbundle"
    shutil.copytree(directory, copy)
    (copy / "model.onnx").write_bytes(b"no model")
    assert error(run(copy, *arguments)).startswith("model.onnx: ")
    (copy / "model.onnx").unlink()
    assert "--formats onnx" in error(run(copy, *arguments))
    lonely = tmp_path / "bin/mobile-run-onnx"
    lonely.parent.mkdir()
    shutil.copy(onnx_runner(), lonely)
    process = subprocess.run(
        [lonely, "generate", directory, *arguments], capture_output=True, text=True, env=runner_environment(),
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "libmobile_bundle_onnx.so is missing beside this program" in error(process)


def test_a_model_of_another_bundle_is_refused(exported, tmp_path):
    copy = tmp_path / "b.mbundle"
    shutil.copytree(exported("affine-8bit"), copy)
    shutil.copy(exported("affine-4bit") / "model.onnx", copy)
    assert "build it again" in error(run(copy, "--prompt", PROMPT, "--json"))


def test_an_old_runtime_is_refused(exported, tmp_path):
    """A library that gives out no interface of our version."""
    source = tmp_path / "old.c"
    source.write_text(
        "typedef struct { const void *(*get)(unsigned); const char *(*version)(void); } base;\n"
        "static const void *get(unsigned version) { (void)version; return 0; }\n"
        'static const char *version(void) { return "1.9.0"; }\n'
        "static const base all = {get, version};\n"
        "const base *OrtGetApiBase(void) { return &all; }\n"
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "old.so", source], check=True)
    message = error(run(exported(), "--prompt", PROMPT, "--json", "--runtime-library", str(tmp_path / "old.so")))
    assert message.startswith("ONNX Runtime 1.9.0 is too old, 1.21 or later is needed")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kv", "int3"], "not a value of --kv: int3"),
        (["--lookup", "4"], "unknown option"),
        (["--kernels", "mmx"], "mmx"),
        (["--context", "100000"], "trained for 512"),
        (["--threads", "65"], "64 at most"),
    ],
)
def test_options_that_do_not_apply_are_refused(exported, arguments, words):
    process = run(exported(), "--prompt", PROMPT, *arguments)
    assert process.returncode == 2
    assert words in process.stderr
    assert process.stderr.count("\n") == 1


def test_help_lists_what_the_program_has():
    text = subprocess.run([str(onnx_runner()), "--help"], capture_output=True, text=True, check=True).stdout
    assert "--runtime-library" in text
    assert "--kv" in text
    assert "--lookup" not in text


@pytest.mark.parametrize("sampling", [(), ("--temperature", "0.8")])
def test_values_that_are_not_finite_end_an_answer_as_mobile_run_s_do(exported, tmp_path, sampling):
    directory = overflowing(exported("raw"), tmp_path / "b.mbundle")
    process = run(directory, "--prompt", PROMPT, "--json", *sampling)
    assert process.returncode == 1
    seen = events(process)
    assert [event["event"] for event in seen] == ["load", "prompt", "error"]
    assert seen[-1]["kind"] == "numeric"
