"""mobile-run as its users meet it: events, text, cancel, errors, memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.native.engine import Model
from mobile_bundle.native.programs import bundle_runner
from mobile_bundle.native.tokenizer import Tokenizer
from support.chat_templates import CHAT_TEMPLATE
from support.events import event_of, events_of
from support.paths import EXAMPLE

PROMPT = "The history of the city"


def run(directory: Path, *arguments: str, stdin: str = "", command: str = "generate") -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(bundle_runner(directory)), command, str(directory), *arguments],
        capture_output=True, text=True, input=stdin, timeout=120,
    )  # fmt: skip


def events(process: subprocess.CompletedProcess) -> dict[str, list[dict]]:
    out: dict[str, list[dict]] = {}
    for event in events_of(process.stdout):
        out.setdefault(event["event"], []).append(event)
    return out


def test_events_tell_the_whole_story(bundle):
    directory = bundle("affine-4bit")
    process = run(directory, "--prompt", PROMPT, "--max-new-tokens", "20", "--json", "--ignore-eos")
    assert process.returncode == 0
    seen = events(process)
    assert list(seen) == ["load", "prompt", "token", "done"]
    load, done = seen["load"][0], seen["done"][0]
    assert load["context"] == 512
    assert load["load_seconds"] > 0
    assert done["reason"] == "length"
    assert done["tokens"] == 20 == len(seen["token"])
    assert done["memory"]["peak_rss_bytes"] > done["memory"]["anon_bytes"] > 0
    # The same tokens as the engine gives by way of Python.
    tokenizer = Tokenizer(directory / "tokenizer.bin")
    with Model(directory) as model, model.session() as session:
        logits = session.feed(tokenizer.encode(PROMPT, special=True))
        for event in seen["token"]:
            assert event["id"] == int(logits.argmax())
            logits = session.feed([event["id"]])
    assert "".join(event["text"] for event in seen["token"]) == tokenizer.decode([e["id"] for e in seen["token"]])


def test_text_goes_to_stdout_and_figures_to_stderr(bundle):
    directory = bundle("affine-4bit")
    process = run(directory, "--prompt", PROMPT, "--max-new-tokens", "12", "--ignore-eos")
    spoken = events(run(directory, "--prompt", PROMPT, "--max-new-tokens", "12", "--ignore-eos", "--json"))
    assert process.stdout == "".join(event["text"] for event in spoken["token"]) + "\n"
    assert "tokens/s" in process.stderr
    assert "peak memory" in process.stderr


def test_sampling_repeats_with_its_seed(bundle):
    directory = bundle("affine-4bit")

    def ids(*options: str) -> list[int]:
        process = run(directory, "--prompt", PROMPT, "--max-new-tokens", "24", "--json", "--ignore-eos", *options)
        assert process.returncode == 0, process.stdout
        return [event["id"] for event in events(process)["token"]]

    greedy = ids()
    warm = ("--temperature", "0.9", "--top-p", "0.95", "--top-k", "50")
    assert ids(*warm, "--seed", "1") == ids(*warm, "--seed", "1")
    assert ids(*warm, "--seed", "1") != ids(*warm, "--seed", "2")
    assert ids("--temperature", "2", "--top-k", "1") == greedy
    assert ids("--temperature", "2", "--min-p", "1") == greedy
    assert ids("--temperature", "2", "--top-p", "0.000001") == greedy
    assert ids("--repetition-penalty", "1.5") != greedy


def test_cancel_on_standard_input_stops_the_answer(bundle):
    directory = bundle("raw")
    command = [str(bundle_runner(directory)), "generate", str(directory), "--prompt", PROMPT, "--json", "--ignore-eos"]
    process = subprocess.Popen(
        [*command, "--max-new-tokens", "480", "--kernels", "scalar", "--threads", "1"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    for line in process.stdout:
        if event_of(line)["event"] == "token":
            break
    process.stdin.write("never mind\ncancel\n")
    process.stdin.flush()
    rest = [event_of(line) for line in process.stdout]
    assert process.wait(timeout=30) == 0
    assert rest[-1]["event"] == "done"
    assert rest[-1]["reason"] == "cancelled"
    assert rest[-1]["tokens"] < 480


def test_cancel_stops_a_long_prompt(bundle, tmp_path):
    directory = bundle("raw")
    (tmp_path / "prompt.txt").write_text("the " * 400)
    begin = time.monotonic()
    process = run(directory, "--prompt-file", str(tmp_path / "prompt.txt"), "--json", "--kernels", "scalar",
                  "--threads", "1", stdin="cancel\n")  # fmt: skip
    seen = events(process)
    assert seen["done"][0]["reason"] == "cancelled"
    assert seen["done"][0]["tokens"] == 0
    assert time.monotonic() - begin < 60


def test_the_context_ends_an_answer(bundle):
    process = run(bundle("affine-4bit"), "--prompt", PROMPT, "--context", "24", "--json", "--ignore-eos")
    done = events(process)["done"][0]
    assert done["reason"] == "context"
    assert done["prompt_tokens"] + done["tokens"] == 24 + 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--prompt"),
        (["--prompt", "a", "--prompt-file", "b"], "--prompt"),
        (["--prompt", "a", "--threads", "0"], "not a value of --threads: 0"),
        (["--prompt", "a", "--threads", "two"], "not a value of --threads: two"),
        (["--prompt", "a", "--temperature", "nan"], "not a value of --temperature: nan"),
        (["--prompt", "a", "--frobnicate"], "unknown option"),
        (["--prompt", "a", "--context", "100000"], "trained for 512"),
        (["--prompt", "a", "--top-p", "2"], "top-p"),
        (["--prompt", "a", "--chat"], "chat template"),
        (["--prompt", "a", "--system", "b"], "--chat"),
        (["--prompt", "a", "--thinking", "on"], "--chat"),
        (["--prompt", "a", "--chat", "--thinking", "maybe"], "maybe"),
        (["--prompt", "a", "--kernels", "sparc"], "sparc"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(bundle, arguments, words):
    process = run(bundle("affine-4bit"), *arguments)
    assert process.returncode == 2
    assert process.stdout == ""
    assert words in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["weights.ptd", "tokenizer.bin"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(bundle, tmp_path, name):
    directory = tmp_path / "odd.mbundle"
    shutil.copytree(bundle("affine-4bit"), directory)
    (directory / name).unlink()
    os.mkfifo(directory / name)
    process = run(directory, "--prompt", "a")
    assert process.returncode == 1
    assert name in process.stderr
    assert "not a" in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("option", ["--prompt-file", "--json-schema"])
def test_a_file_without_end_is_not_read_for_ever(bundle, option):
    prompt = [] if option == "--prompt-file" else ["--prompt", "a"]
    process = run(bundle("affine-4bit"), *prompt, option, "/dev/zero")
    assert process.returncode == 2
    assert "/dev/zero has more than 16 MiB: give a shorter text" in process.stderr


ODD = [b"no\nsuch\x07bundle", b"\xff\xfe\xc3", "\u2028\x85".encode(), "\u6f22".encode() * 1000, b"x" * 6000]
"""Names that are several lines, no UTF-8, or without end."""


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("json_events", [False, True])
def test_an_error_is_one_line_of_utf8_whatever_the_names_are(bundle, odd, json_events):
    directory = bundle("affine-4bit")
    program, json_option = str(bundle_runner(directory)), ["--json"] * json_events
    for arguments in (
        [b"generate", odd, b"--prompt", b"a"],
        [b"verify", odd],
        [b"generate", directory, b"--prompt-file", odd],
        [b"generate", directory, b"--prompt", b"a", b"--kernels", odd],
        [b"generate", directory, b"--prompt", b"a", b"--threads", odd],
        [odd, directory],
    ):
        process = subprocess.run(
            [program, *arguments, *json_option], capture_output=True, stdin=subprocess.DEVNULL, timeout=60
        )
        assert process.returncode in (1, 2)
        # the last line: a load event may stand before it
        lines = (process.stdout or process.stderr).decode("utf-8").removesuffix("\n").split("\n")
        message = json.loads(lines[-1])["message"] if process.stdout else lines[-1]
        assert message.isprintable()
        assert 10 < len(message) < 450
        assert len(process.stderr.decode("utf-8").splitlines()) <= 1


def test_events_tell_a_path_that_is_no_utf8(bundle, tmp_path):
    path = os.fsdecode(bytes(tmp_path) + b'/\xff"\n.mbundle')
    shutil.copytree(bundle("affine-4bit"), path)
    command = [str(bundle_runner(bundle("affine-4bit"))), "generate", path, "--prompt", "a", "--max-new-tokens", "1"]
    process = subprocess.run([*command, "--json"], capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    assert process.returncode == 0
    load = json.loads(process.stdout.decode("utf-8").splitlines()[0])
    assert load["bundle"].endswith('/\ufffd"\n.mbundle')


def test_a_damaged_bundle_is_one_line_and_status_1(bundle, tmp_path):
    damaged = tmp_path / "damaged.mbundle"
    shutil.copytree(bundle("affine-4bit"), damaged)
    whole = (damaged / "weights.ptd").read_bytes()
    for data, words in ((whole[:-1], "truncated"), (whole[:100], "truncated"), (b"", ""), (b"GGUF" * 50, "FlatTensor")):
        (damaged / "weights.ptd").write_bytes(data)
        process = run(damaged, "--prompt", "a", "--json")
        assert process.returncode == 1
        assert words in events(process)["error"][0]["message"]
    (damaged / "weights.ptd").unlink()
    assert "No such file" in events(run(damaged, "--prompt", "a", "--json"))["error"][0]["message"]


def test_verify_finds_a_flipped_bit(bundle, tmp_path):
    directory = tmp_path / "flipped.mbundle"
    shutil.copytree(bundle("affine-4bit"), directory)
    assert run(directory, command="verify").returncode == 0
    data = bytearray((directory / "weights.ptd").read_bytes())
    data[len(data) // 2] ^= 1
    (directory / "weights.ptd").write_bytes(data)
    process = run(directory, command="verify")
    assert process.returncode == 1
    assert "checksum" in process.stderr


@pytest.mark.serial
@pytest.mark.parametrize("recipe", ["raw", "affine-8bit", "affine-4bit", "affine-2bit"])
def test_predicted_memory_is_within_a_tenth(bundle, recipe):
    """With the whole context in use, against the manifest's prediction; VmHWM of a fresh process."""
    directory = bundle(recipe)
    predicted = json.loads((directory / "manifest.json").read_text())["predicted"]
    process = run(
        directory, "--prompt", PROMPT * 12, "--max-new-tokens", "600", "--ignore-eos", "--json", "--threads", "2"
    )
    memory = events(process)["done"][0]["memory"]
    assert memory["peak_rss_bytes"] == pytest.approx(predicted["peak_bytes"], rel=0.1)
    assert memory["peak_anon_bytes"] <= predicted["anon_bytes"] * 1.1


@pytest.mark.serial
def test_memory_of_a_short_answer_is_predicted_too(bundle):
    done = events(run(bundle("affine-4bit"), "--prompt", PROMPT, "--max-new-tokens", "5", "--json"))["done"][0]
    assert done["memory"]["peak_rss_bytes"] == pytest.approx(done["predicted_peak_bytes"], rel=0.15)


def test_bench_reports_every_repetition(bundle):
    process = run(bundle("affine-4bit"), "-n", "16", "-r", "3", "--json", "--threads", "1", command="bench")
    result = events(process)["bench"][0]
    assert result["test"] == "tg16"
    assert len(result["tokens_per_second"]) == 3
    assert np.all(np.array(result["tokens_per_second"]) > 0)
    assert 0 < result["load_seconds"] <= result["first_token_seconds"]


def test_chat_wraps_the_prompt_by_the_model_s_template(bundle, tmp_path):
    model = tmp_path / "chatty"
    shutil.copytree(EXAMPLE, model)
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": CHAT_TEMPLATE}))
    directory = bundle("affine-4bit", model)
    assert json.loads((directory / "manifest.json").read_text())["chat_template"] is True
    options = ("--max-new-tokens", "8", "--json", "--ignore-eos")
    system, user = "Be brief.", "What is water?"
    rendered = f"<|endoftext|>system: {system}\n<|endoftext|>user: {user}\n<|endoftext|>assistant:"
    chat = events(run(directory, "--prompt", user, "--chat", "--system", system, *options))
    plain = events(run(directory, "--prompt", rendered, *options))
    assert chat["prompt"][0]["tokens"] == plain["prompt"][0]["tokens"]
    assert chat["token"] == plain["token"]
    without_system = events(run(directory, "--prompt", user, "--chat", *options))
    assert without_system["prompt"][0]["tokens"] < chat["prompt"][0]["tokens"]
