"""The commands as a user types them."""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
from dataclasses import asdict
from pathlib import Path

import pytest
from mobile_bundle.cli.common import chat_option
from mobile_bundle.cli.main import COMMANDS, main
from mobile_bundle.models.registry import ARCHITECTURES
from mobile_bundle.planning.estimate import estimate_bundle, published_shape, shape_names
from support.chat_templates import LLAMA32, TEMPLATES
from support.paths import EXAMPLE
from support.serve import prompt_of

BIN = Path(sys.executable).parent


def command(*arguments: object, **options) -> subprocess.CompletedProcess:
    name, *rest = map(str, arguments)
    return subprocess.run([str(BIN / name), *rest], capture_output=True, text=True, timeout=120, **options)


def one_line(process: subprocess.CompletedProcess, status: int, words: str) -> None:
    assert process.returncode == status, process.stderr
    lines = process.stderr.strip().splitlines()
    assert words in lines[-1]
    assert "Traceback" not in process.stderr
    if status == 1:
        assert len(lines) == 1


def test_build_says_what_it_made(tmp_path):
    out = tmp_path / "wiki.mbundle"
    process = command("build-mobile-bundle", EXAMPLE, "-o", out)
    assert process.returncode == 0, process.stderr
    assert "affine-5bit" in process.stdout  # 4 bits lose a tenth of this model's perplexity
    assert "affine-4bit rejected: perplexity +" in process.stderr
    assert "peak memory" in process.stdout
    assert "coding weights: 100 %" in process.stderr  # plain lines in a pipe
    assert sorted(path.name for path in out.iterdir()) == ["bin", "manifest.json", "tokenizer.bin", "weights.ptd"]
    assert [path.name for path in tmp_path.iterdir()] == ["wiki.mbundle"]


def test_the_target_is_one_that_is_known(tmp_path):
    build = ("build-mobile-bundle", EXAMPLE, "-o", tmp_path / "wiki.mbundle", "--recipe", "affine-4bit", "--target")
    assert command(*build, "android-2gb").returncode == 0
    one_line(command(*build, "phone"), 2, "argument --target: invalid choice: 'phone'")
    assert "android-2gb (600.0 MB)" in " ".join(command("build-mobile-bundle", "--help").stdout.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--recipe", "affine-7bit"), "unknown recipe 'affine-7bit'; known: raw, affine-8bit"),
        (("--max-size", "30"), "'30': that is 30 bytes; write the unit, such as 30MB"),
        (("--max-ram", "99999"), "99,999 bytes; write the unit"),
        (("--max-sizes",), "--max-sizes"),
    ],
)
def test_bad_usage_of_the_build_is_one_line(tmp_path, arguments, words):
    process = command("build-mobile-bundle", EXAMPLE, "-o", tmp_path / "wiki.mbundle", *arguments)
    one_line(process, 2, words)
    assert len(process.stderr.splitlines()) == 1


def test_bad_usage_is_one_line(tmp_path):
    for arguments in ((), ("nothing",), ("inspect",), ("inspect", tmp_path, "--what"), ("lab", "none")):
        process = command("mobile-bundle", *arguments)
        assert process.returncode == 2
        assert len(process.stderr.splitlines()) == 1
        assert process.stderr.startswith("mobile-bundle")


def test_the_list_of_commands_has_whole_sentences(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = capsys.readouterr().out.split("  COMMAND\n")[1].split("\noptions:")[0]
    entries = re.split(r"^    (?=\S)", listed, flags=re.MULTILINE)[1:]
    assert [entry.split()[0] for entry in entries] == list(COMMANDS)
    assert all(entry.strip().endswith(".") for entry in entries), entries


@pytest.mark.parametrize("name", ["inspect", "verify", "run", "bench"])
def test_what_is_no_bundle(tmp_path, name):
    packed = tmp_path / "my model.mbundle.zip"
    packed.write_bytes(b"PK")
    more = ("--prompt", "Hi") if name == "run" else ()
    one_line(
        command("mobile-bundle", name, tmp_path / "x.mbundle", *more), 1, "x.mbundle does not exist; give a bundle"
    )
    unpack = f"unzip '{packed}' -d '{packed.with_suffix('')}'"
    one_line(command("mobile-bundle", name, packed, *more), 1, f"is the packed form of a bundle; unpack it: {unpack}")


@pytest.mark.slow
def test_a_packed_bundle_runs_after_it_was_unpacked_as_the_message_says(bundle, tmp_path):
    packed = tmp_path / "wiki.mbundle.zip"
    assert command("mobile-bundle", "pack", bundle("affine-4bit"), "-o", packed, "--abi", "x86_64").returncode == 0
    process = command("mobile-bundle", "run", packed, "--prompt", "The")
    unpack = process.stderr.strip().rpartition("unpack it: ")[2]
    if not shutil.which("unzip"):
        pytest.skip("needs unzip")
    subprocess.run(["sh", "-c", unpack], check=True, capture_output=True)
    process = command("mobile-bundle", "run", packed.with_suffix(""), "--prompt", "The", "--max-new-tokens", "2")
    assert process.returncode == 0, process.stderr


def test_a_build_says_that_it_replaced_a_bundle(tmp_path):
    build = ("build-mobile-bundle", EXAMPLE, "-o", tmp_path / "wiki.mbundle", "--recipe", "affine-4bit")
    assert "replaced" not in command(*build).stderr
    assert f"{tmp_path / 'wiki.mbundle'}: the bundle that was there is replaced" in command(*build).stderr


def test_build_json_is_the_manifest(tmp_path):
    out = tmp_path / "wiki.mbundle"
    process = command("build-mobile-bundle", EXAMPLE, "-o", out, "--recipe", "affine-8bit", "--json")
    assert json.loads(process.stdout) == json.loads((out / "manifest.json").read_text())


def chat_model(folder: Path, template: str) -> Path:
    """The example with a chat template."""
    shutil.copytree(EXAMPLE, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    return folder


@pytest.mark.slow
def test_options_of_the_chat_template(tmp_path):
    model, out = chat_model(tmp_path / "model", TEMPLATES["qwen3"]), tmp_path / "a.mbundle"
    build = ("build-mobile-bundle", model, "-o", out, "--recipe", "raw")
    process = command(*build, "--json", "--chat-option", "enable_thinking=false")
    manifest = json.loads(process.stdout)
    assert (manifest["chat_template"], manifest["chat_thinking"]) == (True, False)
    assert manifest["chat_options"] == {"enable_thinking": False}
    answer = ("--prompt", "Hi", "--max-new-tokens", "1", "--json")
    fixed = command("mobile-bundle", "run", out, "--chat", *answer, stdin=subprocess.DEVNULL)
    thinking = ("mobile-bundle", "run", out, "--chat", "--prompt", "Hi", "--thinking")
    one_line(command(*thinking, "on", stdin=subprocess.DEVNULL), 2, "cannot switch thinking")
    manifest = json.loads(command(*build, "--json").stdout)
    assert (manifest["chat_thinking"], manifest["chat_options"]) == (True, {})
    switched = command("mobile-bundle", "run", out, "--chat", "--thinking", "off", *answer, stdin=subprocess.DEVNULL)
    for process in (fixed, switched):
        assert process.returncode == 0, process.stderr
    tokens = [json.loads(p.stdout.splitlines()[1])["tokens"] for p in (fixed, switched)]
    assert tokens[0] == tokens[1]
    one_line(command(*build, "--chat-option", "enable_thinkin=1"), 1, "no variable enable_thinkin")
    one_line(command(*build, "--chat-option", "enable_thinking"), 2, "NAME=VALUE")
    one_line(command(*build, "--chat-option", "enable_thinking=1.5"), 2, "fractions")
    one_line(command(*build, "--chat-option", "enable_thinking=[NaN]"), 2, "fractions")


def test_a_value_that_is_not_json_is_a_text():
    assert chat_option("date_string=26 Jul 2024") == ("date_string", "26 Jul 2024")
    assert chat_option("a=Paris") == ("a", "Paris")
    for wrong in ("a={bad", "thinking=False", "thinking=off", 'a="b'):
        with pytest.raises(argparse.ArgumentTypeError, match="the value is not JSON"):
            chat_option(wrong)
    assert chat_option("a=") == ("a", "")
    assert chat_option('a={"b": [1, true, null, "c=d"]}') == ("a", {"b": [1, True, None, "c=d"]})


@pytest.mark.slow
def test_the_date_is_that_of_today(tmp_path):
    out = tmp_path / "a.mbundle"
    command("build-mobile-bundle", chat_model(tmp_path / "model", LLAMA32), "-o", out, "--recipe", "raw")
    shown = []
    for zone in ("UTC", "<far>-14", "<far>+12"):
        while True:  # not across midnight
            day = date_in(zone)
            rendered = LLAMA32_START.format(day) + "Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
            prompts = [["--chat", "--prompt", "Hi"], ["--prompt", rendered]]
            answers = [
                command("mobile-bundle", "run", out, *prompt, "--max-new-tokens", "4", "--json",
                        stdin=subprocess.DEVNULL, env=os.environ | {"TZ": zone})
                for prompt in prompts
            ]  # fmt: skip
            if date_in(zone) == day:
                break
        events = [[json.loads(line) for line in answer.stdout.splitlines()] for answer in answers]
        assert prompt_of(events[0])["tokens"] == prompt_of(events[1])["tokens"]
        assert [e["text"] for e in events[0] if e["event"] == "token"] == [
            e["text"] for e in events[1] if e["event"] == "token"
        ]
        shown.append(day)
    assert len(set(shown)) > 1


LLAMA32_START = (
    "<|endoftext|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: {}\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
)


def date_in(zone: str) -> str:
    return subprocess.run(
        ["date", "+%d %b %Y"],
        capture_output=True,
        text=True,
        env={"TZ": zone, "LC_ALL": "C", "PATH": os.environ["PATH"]},
    ).stdout.strip()


def test_the_recipe_that_inspect_prints_can_be_asked_for(tmp_path):
    process = command(
        "build-mobile-bundle", EXAMPLE, "-o", tmp_path / "a.mbundle", "--recipe", "bitnet+affine-8bit", "--json"
    )
    manifest = json.loads(process.stdout)
    assert manifest["recipe"] == "bitnet+affine-8bit"
    formats = {tensor["name"]: tensor["format"] for tensor in manifest["tensors"]}
    assert formats["embedding.weight"] == "affine8"
    assert formats["layers.0.mlp.up.weight"] == "ternary2"
    process = command("build-mobile-bundle", EXAMPLE, "-o", tmp_path / "b.mbundle", "--recipe", "bitnet+zip")
    one_line(process, 2, "unknown codec 'zip'")


@pytest.mark.slow
def test_a_terminal_gets_a_progress_bar(tmp_path):
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 80))
    arguments = [str(BIN / "build-mobile-bundle"), str(EXAMPLE), "-o", str(tmp_path / "a.mbundle")]
    process = subprocess.Popen(arguments, stderr=child, stdout=subprocess.DEVNULL)
    os.close(child)
    seen = b""
    while True:
        try:
            data = os.read(parent, 4096)
        except OSError:
            break
        if not data:
            break
        seen += data
    assert process.wait() == 0
    assert b"coding weights" in seen
    assert b"\r" in seen


def test_inspect(bundle):
    process = command("mobile-bundle", "inspect", bundle("affine-4bit"))
    assert process.returncode == 0
    assert "layers.5.mlp.down.weight" in process.stdout
    data = json.loads(command("mobile-bundle", "inspect", bundle("affine-4bit"), "--json").stdout)
    assert set(data["predicted"]) >= {"anon_bytes", "file_bytes", "kv_bytes_per_token", "peak_bytes"}
    files = [path for path in bundle("affine-4bit").rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert data["bytes"] == sum(path.stat().st_size for path in files)
    blobs = sum(tensor["bytes"] for tensor in data["tensors"])
    assert data["bits_per_weight"] == pytest.approx(8 * blobs / data["model"]["parameters"])
    assert data["tensors"][0].keys() >= {"name", "codec", "bits_per_weight", "relative_error"}


@pytest.mark.slow
def test_verify(bundle, tmp_path):
    copy = tmp_path / "copy.mbundle"
    shutil.copytree(bundle("affine-4bit"), copy)
    assert command("mobile-bundle", "verify", copy).returncode == 0
    for name in ("weights.ptd", "tokenizer.bin", "bin/x86_64/mobile-run"):
        data = (copy / name).read_bytes()
        (copy / name).write_bytes(data[:-1] + bytes([data[-1] ^ 4]))
        one_line(command("mobile-bundle", "verify", copy), 1, name)
        (copy / name).write_bytes(data)
    (copy / "tokenizer.bin").unlink()
    one_line(command("mobile-bundle", "verify", copy), 1, "tokenizer.bin is missing")


def test_estimate_is_what_a_build_gives(bundle):
    rows = json.loads(command("mobile-bundle", "estimate", EXAMPLE, "--json").stdout)
    assert [row["recipe"] for row in rows][:2] == ["raw", "affine-8bit"]
    for row in rows:
        if row["recipe"].startswith("seedlm"):
            continue  # half a minute of search; test_seedlm.py builds a smaller model
        manifest = json.loads((bundle(row["recipe"]) / "manifest.json").read_text())
        assert row["bytes"] == manifest["bytes"]
        assert row["predicted"] == manifest["predicted"]
    assert "affine-2bit" in command("mobile-bundle", "estimate", EXAMPLE).stdout


def test_models_lists_every_family() -> None:
    """Without a download: the memory is `estimate`'s of the published shape."""
    rows = json.loads(command("mobile-bundle", "models", "--context", "8192", "--json").stdout)
    assert {row["architecture"] for row in rows if row["sizes"]} == set(ARCHITECTURES)
    sizes = {table[0]["model"]: table for row in rows for table in row["sizes"]}
    assert len(sizes) == len(shape_names())
    gemma = next(row for row in sizes["Gemma-3-1B"] if row["recipe"] == "affine-4bit")
    expected = estimate_bundle(published_shape("gemma-3-1b"), "affine-4bit", 8192)
    assert gemma == json.loads(json.dumps(asdict(expected)))
    assert sizes["Gemma-2-2B"][0]["predicted"]["context"] == 8192
    assert sizes["TinyLlama-1.1B"][0]["predicted"]["context"] == 2048  # it has no more
    by_name = {row["name"]: row for row in rows}
    assert by_name["LFM2, LFM2.5"]["formats"] == ["native", "executorch", "onnx"]
    text = command("mobile-bundle", "models").stdout
    assert text.count("tested: ") == len(rows)
    assert "LFM2-350M" in text


def test_run_passes_everything_to_the_runner(bundle):
    process = command(
        "mobile-bundle", "run", bundle("affine-4bit"), "--prompt", "The", "--max-new-tokens", "4", "--json"
    )
    assert process.returncode == 0
    assert json.loads(process.stdout.splitlines()[-1])["event"] == "done"
    one_line(command("mobile-bundle", "run", bundle("affine-4bit"), "--prompt", "a", "--frob"), 2, "frob")


def test_bench_prints_the_table_and_json(bundle):
    arguments = ("mobile-bundle", "bench", bundle("affine-4bit"), "-p", "32", "-n", "8", "-r", "2", "-t", "1")
    table = command(*arguments).stdout
    assert "| pp32 |" in table
    assert "| tg8 |" in table
    rows = json.loads(command(*arguments, "--json").stdout)
    assert [row["test"] for row in rows] == ["pp32", "tg8"]
    for row in rows:
        assert row["tokens_per_second"]["mean"] > 0
        assert row.keys() >= {
            "load_seconds",
            "first_token_seconds",
            "peak_rss_bytes",
            "peak_anon_bytes",
            "major_faults",
        }


@pytest.mark.slow
@pytest.mark.full
def test_every_runtime_in_one_table(bundle):
    """The same harness and the same tokens."""
    directory = bundle("affine-4bit", EXAMPLE, ("native", "executorch", "onnx"))
    runtimes = ("native", "executorch", "onnx")
    asked = [part for name in runtimes for part in ("--runtime", name)]
    process = command("mobile-bundle", "bench", directory, "-p", "32", "-n", "8", "-r", "1", "-t", "1", *asked)
    for name in runtimes:
        assert process.stdout.count(f"| {name} | 1 |") == 2

    def said(runtime: str, *options: str) -> tuple[str, list[int]]:
        arguments = ("run", directory, "--runtime", runtime, "--prompt", "The city", "--max-new-tokens", "16", *options)
        text = command("mobile-bundle", *arguments).stdout
        lines = command("mobile-bundle", *arguments, "--json").stdout.splitlines()
        tokens = [event for event in map(json.loads, lines) if event["event"] == "token"]
        assert text == "".join(event["text"] for event in tokens) + "\n"
        return text, [event["id"] for event in tokens]

    native = said("native")
    assert len(native[1]) == 16
    assert said("executorch") == native
    assert said("onnx") == native


@pytest.mark.slow
@pytest.mark.full
def test_a_bundle_may_be_without_mobile_run(tmp_path):
    out = tmp_path / "x.mbundle"
    assert command("build-mobile-bundle", EXAMPLE, "-o", out, "--formats", "executorch").returncode == 0
    assert not (out / "bin").exists()
    one_line(command("mobile-bundle", "run", out, "--prompt", "a"), 1, "built without --formats native")
    one_line(command("mobile-bundle", "run", out, "--prompt", "a", "--runtime", "onnx"), 1, "--formats native,onnx")
    assert command("mobile-bundle", "verify", out).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("build-mobile-bundle",), 2, "required"),
        (("build-mobile-bundle", EXAMPLE), 2, "-o"),
        (("build-mobile-bundle", EXAMPLE, "-o", ""), 2, "-o/--output: is empty; give a name"),
        (("build-mobile-bundle", EXAMPLE, "-o", "x.mbundle", "--languages", ","), 2, "list of en"),
        (("build-mobile-bundle", EXAMPLE, "-o", "x.mbundle", "--recipe", "gguf"), 2, "gguf"),
        (("build-mobile-bundle", "no-such-model", "-o", "x.mbundle"), 1, "no-such-model"),
        (("build-mobile-bundle", EXAMPLE, "-o", "x.mbundle", "--formats", "gguf"), 2, "native, executorch, onnx"),
        (("mobile-bundle", "run", "nowhere", "--runtime", "tflite", "--prompt", "a"), 2, "tflite"),
        (("mobile-bundle", "bench", "nowhere", "--runtime", "onnx"), 1, "nowhere"),
        (("mobile-bundle",), 2, "required"),
        (("mobile-bundle", "frobnicate"), 2, "frobnicate"),
        (("mobile-bundle", "inspect", EXAMPLE), 1, "not a bundle"),
        (("mobile-bundle", "inspect", "a", "--frob"), 2, "--frob"),
        (("mobile-bundle", "verify", "nowhere"), 1, "nowhere does not exist"),
        (("mobile-bundle", "eval", EXAMPLE), 2, "--text"),
        (("mobile-bundle", "eval", EXAMPLE, "--text", "nowhere.txt"), 1, "nowhere.txt"),
        (("mobile-bundle", "eval", EXAMPLE, "--text", "a", "--context", "-5"), 2, "--context"),
        (("mobile-bundle", "run", "nowhere", "--prompt", "a"), 1, "nowhere"),
        (("mobile-bundle", "bench", "nowhere"), 1, "nowhere"),
        (("mobile-bundle", "estimate", "nowhere"), 1, "nowhere"),
    ],
)
def test_errors_are_one_line(tmp_path, arguments, status, words):
    one_line(command(*arguments, cwd=tmp_path), status, words)
    assert not list(tmp_path.iterdir())


def test_a_window_longer_than_the_model_knows_is_refused(bundle, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("word " * 3000)
    process = command("mobile-bundle", "eval", bundle("raw"), "--text", text, "--context", "1024")
    one_line(process, 1, "trained for 512")


def test_a_reader_that_goes_away_is_no_error(bundle):
    line = f"{BIN / 'mobile-bundle'} inspect {bundle('affine-4bit')} --json | head -1"
    process = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True)
    assert "Traceback" not in process.stderr
    assert "Broken" not in process.stderr


def test_a_current_folder_that_is_gone_is_named(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    line = f"cd {folder} && rmdir {folder} && exec build-mobile-bundle {EXAMPLE} -o x.mbundle --recipe raw"
    found = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    one_line(found, 1, "the current folder no longer exists")
