"""Builds as tests need them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mobile_bundle.native.programs import missing_runners, runner_paths
from mobile_bundle.pipeline.build import build_bundle
from mobile_bundle.pipeline.request import BuildRequest, Listener, Step
from mobile_bundle.planning.recipe import Recipe
from support.checkpoints import write_byte_tokenizer


def build(
    model: Path,
    out: Path,
    recipe: Recipe | str | None = None,
    *,
    formats: tuple[str, ...] = (),
    progress: Callable[[Step], None] = lambda step: None,
    tell: Callable[[str], None] = lambda line: None,
    **request: Any,
) -> dict[str, Any]:
    """build_bundle, without runners unless `formats` has "native". request: more of BuildRequest's members."""
    return build_bundle(BuildRequest(model, out, recipe, formats=formats, **request), Listener(progress, tell))


def bundle(model: Path, out: Path, recipe: Recipe | str | None = None, **more: Any) -> dict[str, Any]:
    """`build` of a checkpoint that need not have a tokenizer: it gets one of bytes, without a chat template."""
    if not (model / "tokenizer.json").exists():
        write_byte_tokenizer(model)
    return build(model, out, recipe, **more)


def notes_of(manifest: dict[str, Any]) -> list[str]:
    """The manifest's notes, but for the one with which a developer's build says which runners it has not."""
    return [note for note in manifest["notes"] if note not in missing_runners(runner_paths())]
