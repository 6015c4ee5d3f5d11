"""The files beside a healed checkpoint's weights: the original's own, or made of a GGUF's metadata."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from mobile_bundle.files.disk import write_file
from mobile_bundle.models import Model
from mobile_bundle.models.gguf import GgufCheckpoint, GgufFile
from mobile_bundle.tokenizer.gguf import GgufTokenizer, read_tokenizer

_KEPT = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_NOTICES = ("LICENSE", "LICENCE", "NOTICE")


def write_companions(model: Model, directory: Path, ours: tuple[str, ...]) -> None:
    """Tokenizer, chat template, generation settings and notices. ours: names that are not the original's to give.

    OSError if the disk is full."""
    checkpoint = model.checkpoint
    if isinstance(checkpoint, GgufCheckpoint):
        with GgufFile(checkpoint.path) as file:
            found = read_tokenizer(file)
        files = {"tokenizer.json": _tokenizer_json(found), "tokenizer_config.json": _tokenizer_config(found)}
        files["generation_config.json"] = checkpoint.json("generation_config.json") or {}
        for name, value in files.items():
            write_file(directory / name, json.dumps(value, indent=1, ensure_ascii=False).encode())
        return
    for path in sorted(Path(checkpoint.path).iterdir()):
        kept = path.suffix in _KEPT or path.name.upper().startswith(_NOTICES)
        if path.is_file() and kept and path.name not in ours:
            shutil.copyfile(path, directory / path.name)


def _tokenizer_json(found: GgufTokenizer) -> dict[str, Any]:
    """With every member that the tokenizers package asks for."""
    description = dict(found.description)
    plain = {"single_word": False, "lstrip": False, "rstrip": False}
    description["added_tokens"] = [plain | token for token in description["added_tokens"]]
    template = description.get("post_processor")
    if template is not None:
        second = [
            {kind: value | {"type_id": 1} | ({"id": "B"} if kind == "Sequence" else {})}
            for piece in template["single"]
            for kind, value in piece.items()
        ]
        description["post_processor"] = template | {"pair": [*template["single"], *second]}
    return {"version": "1.0", "truncation": None, "padding": None, "pre_tokenizer": None} | description


def _tokenizer_config(found: GgufTokenizer) -> dict[str, Any]:
    template = {} if found.chat_template is None else {"chat_template": found.chat_template}
    return (
        {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False} | found.special | template
    )
