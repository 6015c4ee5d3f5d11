"""The healed checkpoint: a directory that build-mobile-bundle and transformers read like any other."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file
from torch import Tensor

from mobile_bundle.codecs.grids import find_grid
from mobile_bundle.codecs.source import ArraySource
from mobile_bundle.files.atomic import AtomicDirectory
from mobile_bundle.files.disk import disk_errors, write_file
from mobile_bundle.healing.companions import write_companions
from mobile_bundle.healing.state import LOG
from mobile_bundle.models import Model
from mobile_bundle.models.card import licence
from mobile_bundle.models.writing import stored_tensors

FACTS = "healing.json"
_KIND = "mobile-bundle healed checkpoint"
_OURS = ("config.json", "README.md", "model.safetensors", "model.safetensors.index.json", LOG, FACTS)


def output_directory(path: Path) -> AtomicDirectory:
    """The directory to write, which appears whole or not at all. Another healed checkpoint may be replaced."""
    return AtomicDirectory(path, _obstacle, _fingerprint)


def write_result(
    directory: Path, model: Model, tensors: dict[str, Tensor], facts: dict[str, Any], log: Path, card: str
) -> int:
    """Fills the directory. Returns how many matrices lie on no grid, which a build would store with a loss.

    tensors: of Student.tensors; facts: of healing.json. ResumableError if the disk is full."""
    lost = sum(
        find_grid(ArraySource(value.numpy())) is None for value in tensors.values() if value.ndim == 2 and value.any()
    )
    named = stored_tensors(model.directory_tensors(), {name: value.numpy() for name, value in tensors.items()})
    size = sum(value.nbytes for value in named.values())
    with disk_errors(directory, size):
        _save(named, directory / "model.safetensors")
        (directory / "model.safetensors").chmod(0o644)  # safetensors makes it the owner's alone
        write_companions(model, directory, _OURS)
        if log.exists():
            shutil.copyfile(log, directory / LOG)
    write_file(directory / "config.json", json.dumps(_config(model.checkpoint.config), indent=1).encode())
    write_file(directory / "README.md", card.encode())
    write_file(directory / FACTS, json.dumps({"kind": _KIND, **facts}, indent=1).encode())
    return lost


def _save(tensors: dict[str, NDArray[Any]], path: Path) -> None:
    """OSError where the system refuses: safetensors has an error of its own, which names the number in its text."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def card_text(model: Model, facts: dict[str, Any]) -> str:
    """README.md, in the form of a model card."""
    name = licence(model.checkpoint)
    head = [f"license: {name}"] if name else []
    held = facts["held_out"]
    lines = [
        "---",
        *head,
        "library_name: mobile-bundle",
        "---",
        f"# {model.spec.name or 'A model'}, healed for {facts['recipe']}",
        "",
        "Trained with the rounding in place against the original model (mobile-bundle heal). The weights lie on the",
        f"grid of the packed formats ({facts['recipe']}): `build-mobile-bundle` without `--recipe` stores them without",
        "loss.",
        "",
        f"| | original | healed |\n|---|---:|---:|\n| perplexity on held-out text ({held['tokens']:,} tokens) "
        f"| {held['original_perplexity']:.3f} | {held['perplexity']:.3f} |",
        "",
        f"Mean KL {held['kl']:.4f} nats per token; the best token is the same at {100 * held['agreement']:.1f} % of "
        f"the tokens. {'Activations were rounded to int8 as in the engine. ' if facts['int8'] else ''}"
        f"The held-out text is a part of the training text's sources that was not trained on.",
        "",
        f"Method {facts['method']}, {facts['tokens']:,} training tokens, {facts['text']}. All settings: {FACTS}; the",
        f"run's log: {LOG}.",
        "",
    ]
    return "\n".join(lines)


def _config(config: dict[str, Any]) -> dict[str, Any]:
    """The original's, for weights in float32 in model.safetensors."""
    found = {key: value for key, value in config.items() if key not in ("transformers_weights", "dtype")}
    return found | {"torch_dtype": "float32"}


def _obstacle(directory: Path) -> str | None:
    try:
        facts = json.loads((directory / FACTS).read_text())
    except (OSError, ValueError):
        facts = None
    if not isinstance(facts, dict) or facts.get("kind") != _KIND:
        return "exists and is not a healed checkpoint"
    return None


def _fingerprint(directory: Path) -> str:
    return hashlib.sha256((directory / FACTS).read_bytes()).hexdigest()
