"""Builds a bundle."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mobile_bundle.api.bundle import Bundle
from mobile_bundle.api.sizes import byte_size
from mobile_bundle.api.stop import Cancel, is_cancelled
from mobile_bundle.calibrate.calibration import check_device
from mobile_bundle.corpus.languages import vocabulary_texts
from mobile_bundle.errors import ArgumentError, Cancelled
from mobile_bundle.export.formats import FORMATS
from mobile_bundle.models.hub import local_model
from mobile_bundle.pipeline.build import build_bundle
from mobile_bundle.pipeline.default_recipe import TARGETS
from mobile_bundle.pipeline.request import DEFAULT, DEFAULT_TARGET, SELF, BuildRequest, Listener, Step
from mobile_bundle.planning.budget import Budget
from mobile_bundle.planning.recipe import Recipe, named_recipe
from mobile_bundle.planning.recipe_file import SUFFIXES, read_recipe_file

log = logging.getLogger("mobile_bundle")


def build(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    recipe: Recipe | str | os.PathLike[str] | None = None,
    max_size: int | str | None = None,
    max_ram: int | str | None = None,
    max_perplexity: float | None = None,
    min_speed: float | None = None,
    calibration: bool | str | os.PathLike[str] = False,
    target: str = DEFAULT_TARGET,
    formats: Collection[str] = ("native",),
    jobs: int | None = None,
    cluster: str | None = None,
    revision: str | None = None,
    chat_options: Mapping[str, Any] | None = None,
    vocabulary_from: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    languages: Sequence[str] = (),
    system_prompt: str | None = None,
    device: str = "cpu",
    progress: Callable[[Step], None] | None = None,
    cancel: Cancel = None,
) -> Bundle:
    """Builds the bundle `output` (NAME.mbundle; replaced if it exists) from a checkpoint directory, a GGUF file or a
    model of the hub ("OWNER/NAME", where no path of that name exists).

    It appears whole, or not at all. When a build fails, is cancelled or is killed, the finished tensors lie in
    OUTPUT.parts beside it, and the same call continues from there.

    recipe: how weights are coded: a name ("affine-4bit", "bitnet+entropy"), a recipe file (.yaml), or a Recipe; None:
    found by trying. target: the class of phone whose memory it then has to fit. max_size (installed size per ABI) and
    max_ram (predicted peak memory): a budget, in bytes or as "480MB"; max_perplexity: predicted, on the calibration
    text. With a budget the planner chooses codec and bits of every tensor. min_speed: the least speed of decoding that
    its plan may have, beside the same model with every matrix as affine-4bit (1.0), by the time of the products; None:
    0.5, as far as the budget allows it. calibration: a text file (UTF-8, or .xz) to
    measure which weights matter; "self": a text that the model writes; True, and with a budget: the text that ships
    with the tool, for chat models together with one that the model writes. formats: of "native", "executorch", "onnx".
    jobs: tensors that are coded at a time, each in its own process. cluster: a Dask scheduler, "tcp://HOST:PORT".
    revision: a branch, a tag or a commit on the hub. chat_options: arguments of the chat template that the bundle
    fixes. vocabulary_from, languages: texts (UTF-8, or .xz), and languages whose text ships with the tool ("en"): the
    bundle keeps bytes, special tokens and the tokens that those texts need; other text takes more and smaller tokens.
    system_prompt: a system message whose state the bundle carries, so that no phone reads it; conversations have
    to begin with it, as ever. device: "cuda" has calibration compute on a GPU: the profile of the model, and the
    products of coding; searches stay on the processor.

    progress: called with every Step, in this thread; `print` will do. Messages for a person (the plan, what was tried)
    go to the logger "mobile_bundle", level INFO. cancel: stops the build between two steps.

    Call it from any thread; one build per output at a time. With jobs, or on a GPU, a script needs `if __name__
    == "__main__":`.
    Raises UserError: InputError for the checkpoint, ArgumentError for the arguments, BudgetError, OutputError,
    ResumableError, InstallationError for a package that is missing, Cancelled."""

    _not_in_a_worker()
    if progress is not None and not callable(progress):
        raise ArgumentError(f"`progress` {progress!r}: must be a function that takes a Step")

    def step(done: Step) -> None:
        if progress:
            progress(done)
        if is_cancelled(cancel):
            raise Cancelled()

    listener = Listener(step, lambda line: log.info("%s", line))
    request = BuildRequest(
        Path(model),
        Path(output),
        recipe=None if recipe is None else find_recipe(recipe),
        budget=_budget(_size(max_size), _size(max_ram), _perplexity(max_perplexity), min_speed),
        calibration=_calibration(calibration),
        target=_target(target),
        formats=_formats(formats),
        jobs=_jobs(jobs, cluster),
        cluster=cluster,
        chat_options=dict(chat_options or {}),
        vocabulary=vocabulary_texts(vocabulary_from, languages),
        system_prompt=_system_prompt(system_prompt, formats),
        device=device,
    )
    _check_device(request)
    path = local_model(model, revision, listener.stage("downloading"), listener.tell)
    build_bundle(replace(request, model=path), listener)
    return Bundle(output)


def find_recipe(recipe: Recipe | str | os.PathLike[str]) -> Recipe:
    """A recipe by its name or file. ArgumentError for an unknown name, InputError for a file that cannot be used."""
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, (str, os.PathLike)):
        raise ArgumentError(f"`recipe` {recipe!r}: must be a name, a file or a Recipe")
    path = Path(recipe)
    return read_recipe_file(path) if path.suffix in SUFFIXES else named_recipe(str(recipe))


def _not_in_a_worker() -> None:
    """ArgumentError in a process that `jobs` started and that still imports the caller's script: it would build, too.

    The attribute is the one by which multiprocessing itself notices that."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ArgumentError(
            'build() was called while a worker process imported this script: call it under if __name__ == "__main__":'
        )


def _size(size: int | str | None) -> int | None:
    return None if size is None else byte_size(size)


def _perplexity(limit: float | None) -> float | None:
    if limit is not None and not (isinstance(limit, (int, float)) and 1 <= limit < math.inf):
        raise ArgumentError(f"`max_perplexity` {limit!r}: must be a number of at least 1, as every perplexity is")
    return limit


def _budget(max_size: int | None, max_ram: int | None, max_perplexity: float | None, min_speed: float | None) -> Budget:
    budget = Budget(max_size, max_ram, max_perplexity, min_speed)
    if min_speed is not None and not (isinstance(min_speed, (int, float)) and 0 <= min_speed < math.inf):
        raise ArgumentError(f"`min_speed` {min_speed!r}: must be a number, 0 or more")
    if min_speed is not None and not budget:
        raise ArgumentError("`min_speed` is for plans", "give a budget with it, such as `max_size`")
    return budget


def _calibration(text: bool | str | os.PathLike[str]) -> Path | str | None:
    if isinstance(text, bool):
        return DEFAULT if text else None
    return SELF if text == SELF else Path(text)


def _check_device(request: BuildRequest) -> None:
    check_device(request.device)
    if request.device != "cpu" and not request.budget and request.calibration is None:
        raise ArgumentError("`device` is for calibration", "give `calibration`, or a budget such as `max_size`")
    if request.device != "cpu" and request.cluster is not None:
        raise ArgumentError("`device` cannot be given together with `cluster`", "a GPU codes for one process")


def _target(target: str) -> str:
    if target not in TARGETS:
        raise ArgumentError(f"`target` {target!r}: must be one of {', '.join(TARGETS)}")
    return target


def _formats(formats: Collection[str]) -> tuple[str, ...]:
    if not formats:
        raise ArgumentError(f"`formats`: a bundle needs at least one of {', '.join(FORMATS)}")
    for name in formats:
        if isinstance(formats, str) or name not in FORMATS:
            raise ArgumentError(f"`formats` {formats!r}: must be a list of names: {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(formats))


def _system_prompt(prompt: str | None, formats: Collection[str]) -> str | None:
    if prompt is None:
        return None
    if not isinstance(prompt, str) or not prompt:
        raise ArgumentError("`system_prompt`: must be a text")
    if "native" not in formats:
        raise ArgumentError("`system_prompt`: its state is for mobile-run", "let native be one of `formats`")
    return prompt


_MOST_JOBS = 1024
"""Processes. No machine gains by more, and a slip of the finger would fill its memory."""


def _jobs(jobs: int | None, cluster: str | None) -> int | None:
    if jobs is not None and (not isinstance(jobs, int) or not 1 <= jobs <= _MOST_JOBS or cluster is not None):
        raise ArgumentError(f"`jobs`: must be 1 to {_MOST_JOBS:,}, and cannot be given together with `cluster`")
    return jobs
