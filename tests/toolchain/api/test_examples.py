"""The programs in examples/ and every snippet of docs/PYTHON.md run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.chat_templates import CHAT_TEMPLATE
from support.paths import EXAMPLE, ROOT
from support.small_checkpoint import write_checkpoint

EXAMPLES = ROOT / "examples"


def run(program: Path, *arguments: object, stdin: str = "", cwd: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, str(program), *map(str, arguments)],
        input=stdin, capture_output=True, text=True, timeout=300, cwd=cwd,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint with a chat template, as path/to/model."""
    config = {"chat_template": CHAT_TEMPLATE}
    folder = tmp_path_factory.mktemp("examples") / "path/to/model"
    folder.parent.mkdir(parents=True)
    return write_checkpoint(folder, files={"tokenizer_config.json": config})


def test_build_and_generate(tmp_path):
    said = run(EXAMPLES / "build_and_generate.py", EXAMPLE, tmp_path / "a.mbundle", "The city")
    assert "coding weights: 100 %" in said
    assert "bits per weight" in said
    assert said.rstrip().endswith("(length)")


def test_chat_and_evaluate(model, tmp_path):
    import mobile_bundle as mb

    bundle = mb.build(model, tmp_path / "a.mbundle", recipe="raw").path
    assert len(run(EXAMPLES / "chat.py", bundle, stdin="Hi\nWho are you?\n")) > 20
    text = tmp_path / "text.txt"
    text.write_text("The city is a city in the county. " * 200)
    said = run(EXAMPLES / "evaluate.py", bundle, text)
    assert "perplexity: 100 %" in said
    assert re.search(r"perplexity \d+\.\d{3} on 2,040 tokens", said)


def test_estimate():
    lines = run(EXAMPLES / "estimate.py", EXAMPLE, "affine-4bit", "bitnet").splitlines()
    assert [line.split()[0] for line in lines] == ["affine-4bit", "bitnet"]


def test_quantize_module():
    said = run(EXAMPLES / "quantize_module.py")
    assert "0: affine-4bit" in said
    assert float(said.split()[-1]) < 0.2


def test_every_example_is_run():
    """By its name in this file, so that none is forgotten."""
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == set(re.findall(r'EXAMPLES / "(\w+\.py)"', Path(__file__).read_text()))


def test_the_page_runs(model, tmp_path):
    """Its snippets, one after the other, as one program."""
    snippets = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/PYTHON.md").read_text(), re.M | re.S)
    assert len(snippets) >= 9
    (tmp_path / "path").symlink_to(model.parent.parent)
    program = tmp_path / "page.py"
    # Healed for a moment, and without a GPU.
    shorter = "tokens=1280, own_tokens=1600, sequence=32, batch=4, evaluations=2"
    program.write_text("\n".join(snippets).replace('minutes=20, device="cuda"', shorter))
    said = run(program, cwd=tmp_path)
    assert "stopped" in said
    assert "max_size 10000" in said
    assert "'weights.ptd'" in said
    made = sorted(path.name for path in tmp_path.glob("*.mbundle*"))
    assert made == ["model.mbundle", "other.mbundle.parts", "planned.mbundle"]
