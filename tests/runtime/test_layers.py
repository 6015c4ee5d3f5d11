"""scripts/check_includes.py: the runtime keeps to its layers, and what is against them is found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

SCRIPT = ROOT / "scripts/check_includes.py"


def check(root: Path) -> tuple[int, list[str]]:
    process = subprocess.run([sys.executable, SCRIPT, root], capture_output=True, text=True)
    assert not process.stderr
    return process.returncode, process.stdout.splitlines()


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """What the script reads, to be changed."""
    root = tmp_path_factory.mktemp("layers")
    shutil.copytree(ROOT / "runtime", root / "runtime")
    (root / "docs").mkdir()
    shutil.copy(ROOT / "docs/ARCHITECTURE.md", root / "docs")
    return root


def test_the_runtime_keeps_to_its_layers():
    assert check(ROOT) == (0, [])


@pytest.mark.parametrize(
    ("file", "include", "reason"),
    [
        ("kernels/extra.c", '#include "engine/engine.h"', "kernels may not use engine (engine/engine.h)"),
        ("storage/extra.c", '#include "kernels/kernels.h"', "storage may not use kernels (kernels/kernels.h)"),
        ("watch/extra.h", "#include <engine/engine.h>", "watch may not use engine (engine/engine.h)"),
        ("runner/extra.c", '#  include "engine/session.h"', "engine/session.h is private to engine"),
        ("executorch/ops/extra.cpp", '#include "engine/engine.h"', "executorch may not use engine (engine/engine.h)"),
        ("engine/extra.c", '#include "model.h"', '"model.h" does not begin with its layer ("engine/model.h")'),
        ("engine/extra.c", "#include MODEL", "#include MODEL: write the header's path"),
        ("base/extra.c", '#include "mobile_bundle/none.h"', "mobile_bundle/none.h is not in the public API"),
    ],
)
def test_an_include_against_the_layers_is_found(copy, file, include, reason):
    path = copy / "runtime" / file
    path.write_text(f"/* why */\n#include <stdio.h>\n{include}\n")
    try:
        assert check(copy) == (1, [f"runtime/{file}:3: {reason}"])
    finally:
        path.unlink()
    assert check(copy) == (0, [])


def test_a_folder_that_is_no_layer_is_found(copy):
    path = copy / "runtime/extra/extra.c"
    path.parent.mkdir()
    path.write_text("")
    try:
        assert check(copy) == (1, ["runtime/extra: not declared in layers.toml"])
    finally:
        shutil.rmtree(path.parent)


def test_the_table_says_what_the_declaration_says(copy):
    page = copy / "docs/ARCHITECTURE.md"
    text = page.read_text()
    row = next(line for line in text.splitlines() if line.startswith("| `runtime/storage/` |"))
    try:
        page.write_text(text.replace(row, row.replace("| packed, base |", "| kernels, packed, base |")))
        assert check(copy) == (1, ["docs/ARCHITECTURE.md: storage may use packed, base, says layers.toml"])
        page.write_text(text.replace(row + "\n", ""))
        assert check(copy) == (1, ["docs/ARCHITECTURE.md: no row for `runtime/storage/`"])
    finally:
        page.write_text(text)


def test_a_cycle_cannot_be_declared(copy):
    path = copy / "runtime/layers.toml"
    text = path.read_text()
    try:
        path.write_text(text.replace("[base]\nuses = []", '[base]\nuses = ["engine"]'))
        assert check(copy) == (1, ["layers.toml: base uses engine, which does not stand above it"])
    finally:
        path.write_text(text)
