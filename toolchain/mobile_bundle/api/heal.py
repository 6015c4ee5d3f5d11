"""Heals a checkpoint: trains it with the rounding of a packed format in place."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobile_bundle.api.build import find_recipe, log
from mobile_bundle.api.stop import Cancel, is_cancelled
from mobile_bundle.errors import ArgumentError, Cancelled, InstallationError
from mobile_bundle.pipeline.request import Listener, Step
from mobile_bundle.planning.recipe import Recipe
from mobile_bundle.planning.recipe_file import SUFFIXES

if TYPE_CHECKING:
    from mobile_bundle.healing.progress import Trained
    from mobile_bundle.healing.run import Healed


def heal(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    recipe: Recipe | str | os.PathLike[str],
    progress: Callable[[Step | Trained], None] | None = None,
    cancel: Cancel = None,
    **settings: Any,
) -> Healed:
    """Writes `output`, a checkpoint directory that `build` stores without loss, from `model`, a checkpoint directory or
    a GGUF file.

    recipe: a codec ("bitnet-row", "bitnet", "bitnet-1.25bit", "affine-2bit", "affine-3bit"), that and the embedding's
    ("affine-2bit+affine-8bit"; alone it is 4 bits in groups of 32), a recipe file (.yaml), or a Recipe. settings: of
    heal.settings.Settings by name; `tokens` or `minutes` says how long to train. progress: called with a Step before
    and after the training, and with Trained in it; `print` will do. cancel: stops between two steps. An unfinished
    run lies in OUTPUT.heal, and the same call goes on from there.

    Needs torch (extra `heal`). Returns path, held (figures on held-out text), lost and rounds. Raises UserError:
    InputError, ArgumentError, OutputError, ResumableError, InstallationError, OutOfMemory, NotFinite, Cancelled."""
    for package in ("torch", "safetensors"):
        if importlib.util.find_spec(package) is None:
            raise InstallationError(f"healing needs {package}", "pip install '.[heal]' in a checkout of mobile-bundle")
    from mobile_bundle.healing.recipe import heal_recipe
    from mobile_bundle.healing.run import heal_checkpoint
    from mobile_bundle.healing.settings import Settings

    def told(what: Step | Trained) -> None:
        if progress:
            progress(what)
        if is_cancelled(cancel):
            raise Cancelled()

    unknown = sorted(set(settings) - set(Settings.__dataclass_fields__))
    if unknown:
        raise ArgumentError(f"heal() has no setting {unknown[0]!r}")
    for name in ("text", "own_text", "prompts"):
        if settings.get(name) is not None:
            settings[name] = Path(settings[name])
    named = isinstance(recipe, (str, os.PathLike)) and Path(recipe).suffix not in SUFFIXES
    chosen = heal_recipe(str(recipe)) if named else find_recipe(recipe)
    return heal_checkpoint(
        Path(model),
        Path(output),
        chosen,
        Settings(**settings),
        Listener(told, lambda line: log.info("%s", line)),
        told,
    )
