"""Small tokenizer.bin files."""

from __future__ import annotations

import json
from pathlib import Path

from mobile_bundle.tokenizer import compile_tokenizer
from support.chat_templates import TEMPLATES
from support.trained_tokenizers import TRAINED


def small_tokenizer_files(directory: Path) -> list[Path]:
    """tokenizer.bin of every kind with a chat template, a few kilobytes each: seeds for the fuzzer."""
    out = []
    for number, make in enumerate(TRAINED.values()):
        folder = directory / str(number)
        folder.mkdir()
        make().save(str(folder / "tokenizer.json"))
        template = json.dumps({"chat_template": TEMPLATES["modes" if number else "qwen3"]})
        (folder / "tokenizer_config.json").write_text(template)
        out.append(folder / "tokenizer.bin")
        out[-1].write_bytes(compile_tokenizer(folder, {}).data)
    return out
