"""What is asked of a build, and who is told of its progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobile_bundle.pipeline.pool import Progress
from mobile_bundle.planning.budget import Budget
from mobile_bundle.planning.recipe import Recipe

SELF = "self"
"""Calibration on a text that the model writes."""
DEFAULT = "default"
"""Calibration on the text that ships, for chat models together with one that the model writes."""
DEFAULT_TARGET = "android-2gb"


@dataclass(frozen=True)
class BuildRequest:
    """model: a checkpoint directory or a GGUF file; output: the bundle to write, replaced if it is one already.

    recipe: a recipe, its name, or None for the model's default, which stores without loss what lies on the grid of a
    packed format (planning/exact.py). budget: what the plan has to keep to; the planner then chooses every codec that
    the recipe's patterns do not fix. calibration: a text for codecs and planner, SELF or DEFAULT; None: data-free, or
    with a budget DEFAULT. formats: of export.formats.FORMATS. jobs, cluster: as PartPool's. chat_options:
    keyword arguments of apply_chat_template that the bundle's chat template is to have (JSON values). target: of
    pipeline.default_recipe.TARGETS, whose memory the default recipe has to fit. vocabulary: texts; with any, the bundle
    has the tokens that they (and the system prompt) need and no others. system_prompt: a text whose state the
    bundle is to carry. device: "cpu", or "cuda" where calibration is to compute on a GPU."""

    model: Path
    output: Path
    recipe: Recipe | str | None = None
    budget: Budget = field(default_factory=Budget)
    calibration: Path | str | None = None
    formats: tuple[str, ...] = ("native",)
    jobs: int | None = None
    cluster: str | None = None
    chat_options: Mapping[str, Any] = field(default_factory=dict)
    target: str = DEFAULT_TARGET
    vocabulary: tuple[str, ...] = ()
    system_prompt: str | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Step:
    """`done` of `total` units of a stage are done, the last of them `tensor` ("": of no tensor). The unit is the
    stage's own: weights where tensors are coded, windows where a text is read."""

    stage: str
    done: int
    total: int
    tensor: str = ""

    def __str__(self) -> str:
        return f"{self.stage}: {100 * self.done // self.total} %" + (f" ({self.tensor})" if self.tensor else "")


@dataclass(frozen=True)
class Listener:
    """progress: takes every step, in the thread that builds; an exception that it raises ends the build as Ctrl-C does,
    and what is coded is kept for the next one. tell: takes a line for a person (the plan, what was used)."""

    progress: Callable[[Step], None] = lambda step: None
    tell: Callable[[str], None] = lambda line: None

    def stage(self, name: str) -> Progress:
        """What counts the steps of that stage."""
        return lambda done, total, tensor: self.progress(Step(name, done, total, tensor))
