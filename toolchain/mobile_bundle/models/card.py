"""What the files beside the weights say for the manifest: licence and sampling values."""

from __future__ import annotations

import re
from typing import Any

from mobile_bundle.models import Checkpoint
from mobile_bundle.models.gguf import GgufCheckpoint

_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens")


def licence(checkpoint: Checkpoint | GgufCheckpoint) -> str | None:
    """The `license` (or, for "other", `license_name`) of the model card's front matter or of a GGUF, or None."""
    if isinstance(checkpoint, GgufCheckpoint):
        return checkpoint.licence
    try:
        text = (checkpoint.directory / "README.md").read_text("utf-8", "replace")
    except OSError:
        return None
    match = re.match(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", text, re.DOTALL)
    if not match:
        return None
    values = dict(re.findall(r"^(license|license_name):[ \t]*(\S.*?)[ \t]*$", match[1], re.MULTILINE))
    value = values.get("license")
    if value == "other":
        value = values.get("license_name", value)
    return value.strip("\"'") if value else None


def generation(checkpoint: Checkpoint | GgufCheckpoint) -> dict[str, Any]:
    """The sampling values of generation_config.json that the runtime knows."""
    values = checkpoint.json("generation_config.json") or {}
    return {key: values[key] for key in _SAMPLING if isinstance(values.get(key), (bool, int, float))}
