"""Models by their id on the hub: the real huggingface_hub against a stand-in of the hub on loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mobile_bundle.models.hub import is_hub_id
from support.checkpoints import write_tiny
from support.gguf_files import small_tokenizer, write_gguf
from support.hub_server import Hub, serve_hub
from support.paths import EXAMPLE

BIN = Path(sys.executable).parent
ESTIMATE = ("mobile-bundle", "estimate", "--recipe", "affine-4bit", "--json")
NEEDED = ["README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
          "tokenizer_config.json"]  # fmt: skip
Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub() as served:
        yield served


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    """Runs a command in an empty folder, with this hub and an empty cache of its own."""
    work = tmp_path / "work"
    work.mkdir()

    def process(name: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess:
        environment = {**hub.environment(tmp_path / "home"), **variables}
        command = [str(BIN / name), *map(str, arguments)]
        return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=120)

    return process


def refused(process: subprocess.CompletedProcess, *words: str) -> None:
    assert process.returncode == 1
    assert len(process.stderr.strip().splitlines()) == 1, process.stderr
    for word in words:
        assert word in process.stderr


def test_a_build_downloads_what_it_needs_and_no_more(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.add("lab/wiki-6m", EXAMPLE, pytorch_model__bin=b"x" * 200_000, model__gguf=b"GGUF", training_args__bin=b"x")
    process = run("build-mobile-bundle", "lab/wiki-6m", "-o", "hub.mbundle", "--recipe", "affine-4bit")
    assert process.returncode == 0, process.stderr
    assert f"lab/wiki-6m: commit {hub.commit('lab/wiki-6m')[:12]} of the hub" in process.stderr
    assert "downloading: 100 %" in process.stderr
    assert hub.downloaded() == NEEDED
    local = run("build-mobile-bundle", EXAMPLE, "-o", "local.mbundle", "--recipe", "affine-4bit")
    assert local.returncode == 0
    for name in ("weights.ptd", "tokenizer.bin"):
        assert (tmp_path / "work/hub.mbundle" / name).read_bytes() == (
            tmp_path / "work/local.mbundle" / name
        ).read_bytes()
    manifest = json.loads((tmp_path / "work/hub.mbundle/manifest.json").read_text())
    assert manifest["model"]["name"] == "wiki-6m"


@pytest.mark.slow
def test_what_is_in_the_cache_is_not_downloaded_again_and_serves_offline(hub: Hub, run: Run) -> None:
    hub.add("lab/wiki", EXAMPLE)
    first = run(*ESTIMATE, "lab/wiki")
    assert first.returncode == 0, first.stderr
    hub.requests.clear()
    assert run(*ESTIMATE, "lab/wiki").stdout == first.stdout
    assert not hub.downloaded()
    hub.requests.clear()
    assert run(*ESTIMATE, "lab/wiki", HF_HUB_OFFLINE="1").stdout == first.stdout
    assert not hub.requests
    hub.repositories["lab/wiki"]["README.md"] = b"another commit"
    assert run(*ESTIMATE, "lab/wiki").stdout == first.stdout
    assert hub.downloaded() == ["README.md"]


def test_a_download_that_breaks_off_is_resumed_in_its_middle(hub: Hub, run: Run) -> None:
    hub.add("lab/wiki", EXAMPLE)
    hub.break_off["model.safetensors"] = [11_000_000]  # the library writes pieces of 10 MiB
    process = run(*ESTIMATE, "lab/wiki")
    assert process.returncode == 0, process.stderr
    ranges = [r.range for r in hub.requests if r.method == "GET" and r.path == "/storage/lab/wiki/model.safetensors"]
    assert ranges == ["", f"bytes={10 << 20}-"]


@pytest.mark.slow
def test_a_download_that_breaks_off_for_good_keeps_the_files_that_were_whole(hub: Hub, run: Run) -> None:
    hub.add("lab/wiki", EXAMPLE)
    hub.break_off["model.safetensors"] = [0] * 20
    process = run(*ESTIMATE, "lab/wiki")
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("mobile-bundle: lab/wiki: the download broke off (")
    assert process.stderr.rstrip().endswith("the same command downloads the rest")
    hub.break_off.clear()
    hub.requests.clear()
    assert run(*ESTIMATE, "lab/wiki").returncode == 0
    assert hub.downloaded() == ["model.safetensors"]


@pytest.mark.slow
def test_shards_are_those_of_the_index(hub: Hub, run: Run, tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "tiny", "llama", shard="200KB")
    shards = sorted(path.name for path in model.glob("model-*.safetensors"))
    assert len(shards) > 1
    hub.add("lab/tiny", model, **{"model-00001-of-00009__safetensors": b"of another set"})
    process = run(*ESTIMATE, "lab/tiny")
    assert process.returncode == 0, process.stderr
    assert [name for name in hub.downloaded() if name.endswith(".safetensors")] == shards


@pytest.mark.slow
def test_a_repository_of_one_gguf_file_is_that_file(hub: Hub, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "gguf"
    folder.mkdir()
    write_gguf(folder / "tiny.gguf", write_tiny(tmp_path / "tiny", "llama"), tokenizer=small_tokenizer)
    hub.add("lab/tiny-gguf", folder, README__md=b"# A model\n")
    process = run(*ESTIMATE, "lab/tiny-gguf")
    assert process.returncode == 0, process.stderr
    assert [row["recipe"] for row in json.loads(process.stdout)] == ["affine-4bit"]
    hub.add("lab/many", folder, other__gguf=b"GGUF", README__md=b"# Models\n")
    refused(run(*ESTIMATE, "lab/many"), "lab/many has 2 GGUF files", "hf download lab/many other.gguf")
    hub.add("lab/pickle", EXAMPLE, model__safetensors=b"", pytorch_model__bin=b"x")
    del hub.repositories["lab/pickle"]["model.safetensors"]
    refused(run(*ESTIMATE, "lab/pickle"), "neither safetensors of a model nor a GGUF file", "save_pretrained")


@pytest.mark.slow
def test_every_reason_why_there_is_none_is_one_line(hub: Hub, run: Run) -> None:
    hub.add("lab/wiki", EXAMPLE)
    hub.add("lab/gated", EXAMPLE)
    hub.gated.add("lab/gated")
    refused(run(*ESTIMATE, "lab/gated"), "lab/gated is gated", "accept its terms", "hf auth login")
    refused(run(*ESTIMATE, "lab/none"), "lab/none does not exist: neither here as a path nor", "check the name")
    refused(run(*ESTIMATE, "lab/wiki", "--revision", "v9"), "has no revision v9", "(--revision)")
    refused(run(*ESTIMATE, "lab/wiki", HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE is set", "unset it")
    refused(run(*ESTIMATE, "lab/wiki", HF_ENDPOINT="http://127.0.0.1:9"), "cannot be reached", "connect to the network")
    hub.broken = True
    refused(run(*ESTIMATE, "lab/wiki"), "lab/wiki", "500")


def test_a_revision_is_a_commit_and_belongs_to_the_hub(hub: Hub, run: Run) -> None:
    hub.add("lab/wiki", EXAMPLE)
    process = run(*ESTIMATE, "lab/wiki", "--revision", hub.commit("lab/wiki"))
    assert process.returncode == 0, process.stderr
    refused(run(*ESTIMATE, EXAMPLE, "--revision", "main"), "--revision main: is for a model of the hub")


def test_a_local_path_wins(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.add("lab/wiki", EXAMPLE)
    shutil.copytree(EXAMPLE, tmp_path / "work/lab/wiki")
    assert run(*ESTIMATE, "lab/wiki").returncode == 0
    refused(run(*ESTIMATE, "./lab/other"), "lab/other does not exist")
    assert not hub.requests


@pytest.mark.slow
def test_eval_compares_with_the_original_on_the_hub(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.add("lab/wiki", EXAMPLE)
    (tmp_path / "text").write_text("The history of the city is a history of the county. " * 20)
    measured = ("--text", tmp_path / "text", "--context", 32, "--windows", 1, "--json")
    process = run("mobile-bundle", "eval", EXAMPLE, "--against", "lab/wiki", "--revision", "main", *measured)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["agreement"] > 0.9


def test_the_python_package_takes_an_id(hub: Hub, run: Run) -> None:
    hub.add("lab/wiki", EXAMPLE)
    program = """
import threading, mobile_bundle as mb
steps = []
def progress(step):
    assert threading.current_thread() is threading.main_thread()
    steps.append(step)
bundle = mb.build("lab/wiki", "api.mbundle", recipe="affine-4bit", revision="main", progress=progress)
got = [step for step in steps if step.stage == "downloading"]
assert got[-1].done == got[-1].total > 11_000_000, got
print(mb.estimate("lab/wiki", "affine-4bit").bits_per_weight == bundle.manifest.bits_per_weight)
"""
    process = run("python", "-c", program)
    assert process.stdout.strip() == "True", process.stderr


def test_a_download_can_be_cancelled(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.add("lab/wiki", EXAMPLE)
    program = """
import mobile_bundle as mb
try:
    mb.build("lab/wiki", "api.mbundle", recipe="affine-4bit", cancel=lambda: True)
except mb.errors.Cancelled:
    print("cancelled")
"""
    process = run("python", "-c", program)
    assert process.stdout.strip() == "cancelled", process.stderr
    assert not list((tmp_path / "work").iterdir())


def test_without_the_library_one_line_says_what_to_install(hub: Hub, run: Run) -> None:
    program = """
import sys
sys.modules["huggingface_hub"] = None
from mobile_bundle.cli.main import main
sys.exit(main(["estimate", "lab/wiki"]))
"""
    refused(run("python", "-c", program), "needs huggingface_hub: pip install huggingface_hub")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", True),
        ("a/b", True),
        ("a", False),
        ("./a/b", False),
        ("a/b/", False),
        ("../b", False),
        ("a/..", False),
        ("a/b/c", False),
        ("/a/b", False),
        ("a/b c", False),
        ("examples/models", False),
    ],
)
def test_ids(text: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLE.parents[2])
    assert is_hub_id(text) is expected
