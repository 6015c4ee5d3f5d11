"""Finds a model's chat template."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from mobile_bundle.errors import UserError
from mobile_bundle.files.inputs import read_json, read_text


def find_chat_template(model_dir: Path, tokenizer_config: dict[str, Any]) -> tuple[str | None, str]:
    """The template's source from where transformers takes it, or None and why: one line.

    transformers: chat_template.jinja, else tokenizer_config.json. chat_template.json, which its processors read, is
    the last resort. Never raises for what such a file holds.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            return read_text(model_dir / "chat_template.jinja"), ""
        if any((model_dir / "additional_chat_templates").glob("*.jinja")):
            return None, "additional_chat_templates has named ones, and chat_template.jinja, the default, is missing"
        if tokenizer_config.get("chat_template") is not None:
            return _choose(tokenizer_config["chat_template"], "tokenizer_config.json")
        value = read_json(model_dir / "chat_template.json")
    except FileNotFoundError:
        return None, ""
    except UserError as error:
        return None, str(error)
    return _choose(value.get("chat_template") if isinstance(value, dict) else value, "chat_template.json")


def _choose(value: Any, where: str) -> tuple[str | None, str]:
    """The template, or the one named default of several."""
    if isinstance(value, str):
        return value, ""
    named: dict[Any, Any] = value if isinstance(value, dict) else {}
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        named = {str(entry.get("name")): entry.get("template") for entry in value}
    if isinstance(named.get("default"), str):
        return named["default"], ""
    if named:
        return None, f"{where} has several chat templates and none that is named default"
    return None, f"chat_template in {where} is neither a text nor a list of named texts"
