"""docs/ADDING_A_CODEC.md, carried out as it stands: its files written, its line added, its commands run.

They run in a copy of the installed package, whose codecs/ alone is copied and the rest linked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mobile_bundle
import pytest
from support.paths import EXAMPLE, ROOT

PAGE = (ROOT / "docs/ADDING_A_CODEC.md").read_text("utf-8")


def block_after(text: str, language: str) -> str:
    """The first code block of that language behind a text that the page has once."""
    assert PAGE.count(text) == 1, text
    behind = PAGE[PAGE.index(text) :]
    return behind.split(f"```{language}\n", 1)[1].split("```", 1)[0]


def add_lines(path: Path, difference: str) -> None:
    """Applies a block of one context line and lines with + behind it."""
    context, *added = difference.splitlines()
    assert added
    assert all(line.startswith("+") for line in added)
    text = path.read_text("utf-8")
    assert text.count(context[1:] + "\n") == 1, context
    path.write_text(text.replace(context[1:] + "\n", "\n".join([context[1:], *(line[1:] for line in added)]) + "\n"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package and the codec that the page adds to it."""
    folder = tmp_path_factory.mktemp("checkout")
    package = folder / "mobile_bundle"
    package.mkdir()
    for directory in mobile_bundle.__path__:
        for entry in Path(directory).iterdir():
            if entry.name not in ("codecs", "__pycache__") and not (package / entry.name).exists():
                (package / entry.name).symlink_to(entry.resolve())
    shutil.copytree(Path(mobile_bundle.codecs.__file__).parent, package / "codecs")
    (package / "codecs/twn.py").write_text(block_after("Write `toolchain/mobile_bundle/codecs/twn.py`", "python"))
    add_lines(package / "codecs/formats.py", block_after("Register it in", "diff"))
    (folder / "test_twn.py").write_text(block_after("Write `tests/toolchain/codecs/test_twn.py`", "python"))
    return folder


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def command(name: str, module: str) -> list[str]:
    return ["-c", f"import sys\nfrom {module} import main\nsys.argv[0] = {name!r}\nsys.exit(main())"]


@pytest.mark.full
def test_its_test_passes(checkout: Path) -> None:
    done = run(checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_twn.py")
    assert "3 passed" in done.stdout


@pytest.mark.full
def test_a_bundle_is_built_by_its_recipe_and_the_engine_answers(checkout: Path) -> None:
    console = block_after("Run it, build a bundle", "console")
    build = re.search(r"^\$ build-mobile-bundle (.*)$", console, re.M)
    answer = re.search(r'^\$ mobile-bundle run (\S+) --prompt "(.*)" (.*)$', console, re.M)
    assert build
    assert answer
    arguments = [str(EXAMPLE) if word == "examples/models/wiki-6m" else word for word in build[1].split()]
    run(checkout, *command("build-mobile-bundle", "mobile_bundle.cli.build"), *arguments)
    manifest = json.loads((checkout / answer[1] / "manifest.json").read_text("utf-8"))
    assert manifest["recipe"] == "twn"
    body = [each for each in manifest["tensors"] if each["codec"] == "twn"]
    assert len(body) >= 7
    assert all(each["format"] == "ternary2" and 0.1 < each["relative_error"] < 0.3 for each in body)
    said = run(
        checkout, *command("mobile-bundle", "mobile_bundle.cli.main"), "run", answer[1], "--prompt", answer[2],
        *answer[3].split(),
    )  # fmt: skip
    assert said.stdout.strip()


def test_the_page_shows_what_is_there() -> None:
    """Every quoted piece of a file stands in that file."""
    quoted = re.findall(r"```\w+ file=(\S+)\n(.*?)```", PAGE, re.S)
    assert len(quoted) >= 8
    for path, text in quoted:
        assert text in (ROOT / path).read_text("utf-8"), f"{path}:\n{text}"
    for path in re.findall(r"`((?:toolchain|runtime|tests|benchmarks|docs)/[\w/.]+\.\w+)`", PAGE):
        assert (ROOT / path).exists() or Path(path).name in ("test_twn.py", "twn.py", "NAME.c"), path
