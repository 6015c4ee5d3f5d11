"""Heals a checkpoint: the stages in their order."""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobile_bundle.codecs import StreamCodec
from mobile_bundle.corpus.text import read_text
from mobile_bundle.errors import ArgumentError, OutOfMemory, OutputError, UnsupportedError
from mobile_bundle.healing.blocks import BlockSettings, heal_blocks
from mobile_bundle.healing.decoders import Original, Student, run_layer
from mobile_bundle.healing.evaluation import Held
from mobile_bundle.healing.mixture import Mixture, Tokens
from mobile_bundle.healing.progress import Trained
from mobile_bundle.healing.recipe import heal_codecs
from mobile_bundle.healing.result import card_text, output_directory, write_result
from mobile_bundle.healing.settings import Settings
from mobile_bundle.healing.sharding import shard
from mobile_bundle.healing.sources import Sources
from mobile_bundle.healing.start import make_student
from mobile_bundle.healing.start_by_time import allows_rounding, seconds_per_token
from mobile_bundle.healing.state import LOG, STATE, RunFolder, decided, digest, save_whole
from mobile_bundle.healing.training import Training
from mobile_bundle.healing.world import World, join_world
from mobile_bundle.pipeline.identity import tensor_digest
from mobile_bundle.pipeline.request import BuildRequest, Listener
from mobile_bundle.pipeline.source import Source, open_source
from mobile_bundle.planning.recipe import Recipe

Progress = Callable[[Trained], None]

_VERSION = 4
"""Of what a checkpoint holds and how it goes on: since 4, several means of the weights,
and the sequences of a step in their order."""
_BLOCKS_TOKENS = 589_824
"""That the whole model is trained on without a GPU, where nothing says how long."""
_LAYER_PART = 24
"""Of these tokens, one in so many is of the text that every layer is trained on, some rounds."""
_LAYER_RATE = 2.0
"""Of learning, for layers, times the rate."""
_LATER_RATE = 0.6
"""The same, for the whole model behind the layers or the calibrated code: a high one first undoes what is there. Of
0.0018, 0.0006 and 0.00024, the second was best for scales and norms of SmolLM2 (docs/HEALING.md)."""
_LEAST_WINDOWS = 8
_WARMUP, _EVALUATIONS = 20, 4
"""Steps, and how often held-out text is read, of the whole model after its layers."""
_CALIBRATION = 49_152
"""Tokens that the start is calibrated on, as many as a build's calibration reads."""


@dataclass(frozen=True)
class Healed:
    """path: the checkpoint; held: what it does on held-out text; lost: matrices that a build would not store without
    loss (none is expected); rounds: how often the source that was read most was read by the training of the whole
    model."""

    path: Path
    held: Held
    lost: int
    rounds: float


def heal_checkpoint(
    checkpoint: Path,
    output: Path,
    recipe: Recipe,
    settings: Settings,
    listener: Listener,
    progress: Progress = lambda trained: None,
) -> Healed:
    """Writes the healed checkpoint. An unfinished run lies in OUTPUT.heal beside it, and the same call goes on from
    there. listener: of the stages before and after training; progress: of the training.

    UserError says what a person can mend; OutOfMemory and NotFinite are among them."""
    settings.check()
    _check_places(settings, output)
    torch.manual_seed(settings.seed)
    with join_world(settings.device) as world, open_source(BuildRequest(checkpoint, output)) as source:
        settings = settings.resolved(source.spec.context)
        _check(settings, world, source)
        codecs = heal_codecs(recipe, source.spec, source.model.tensors)
        run = _Run(source, output, recipe, codecs, settings, world, listener if world.first else Listener())
        with _out_of_memory(settings):
            return run.heal(progress if world.first else lambda trained: None)


class _Run:
    """One run of one process."""

    def __init__(
        self,
        source: Source,
        output: Path,
        recipe: Recipe,
        codecs: dict[str, StreamCodec],
        settings: Settings,
        world: World,
        listener: Listener,
    ) -> None:
        self._source, self._output, self._recipe, self._codecs = source, output, recipe, codecs
        self._settings, self._world, self._listener = settings, world, listener
        self._work = output.with_name(output.name + ".heal")
        self._sources = Sources(source, settings, world, listener, self._work)

    def heal(self, progress: Progress) -> Healed:
        model, settings, world = self._source.model, self._settings, self._world
        model_digest = digest([tensor_digest(model, tensor) for tensor in model.tensors])
        target = output_directory(self._output) if world.first else None
        if target is not None:
            target.__enter__()  # first: an output that cannot be leaves no folder of a run
        try:
            folder = RunFolder(self._work, self._identity(model_digest), world.first)
            dtype = torch.bfloat16 if world.device.type == "cuda" else torch.float32
            original = Original(model, world.device, dtype)
            if settings.compile:
                original.layer = torch.compile(run_layer, dynamic=False)  # `like` is a number, no size
            parts, held_out = self._sources.read(original, model_digest)
            mixture = Mixture(parts, settings.seed)
            run = self._blocks if settings.method == "blocks" else self._distill
            training, held = run(original, mixture, held_out, folder, progress)
            lost = 0
            tensors = training.student.tensors(world.first)
            if target is not None:
                facts = self._facts(held, training.tokens)
                lost = write_result(target.path, model, tensors, facts, self._work / LOG, card_text(model, facts))
                target.commit()
                shutil.rmtree(self._work, ignore_errors=True)
            world.wait()
            rounds = mixture.rounds(training.tokens // settings.sequence)
            return Healed(self._output, held, lost, rounds)
        finally:
            if target is not None:
                target.__exit__()

    def _distill(
        self, original: Original, mixture: Mixture, held_out: Tokens, folder: RunFolder, progress: Progress
    ) -> tuple[Training, Held]:
        """The whole model from its start to the end."""
        settings, world = self._settings, self._world
        student = self._student(original, mixture, (folder.path / STATE).exists())
        if settings.shard and world.size > 1:
            shard(student, world)
        else:
            student.to(world.device)
        if settings.compile:
            for layer in student.layers:
                layer.compile()
        tell = self._listener.tell
        training = Training(student, original, mixture, held_out, settings, world, folder, progress, tell)
        return training, training.run()

    def _student(self, original: Original, mixture: Mixture, goes_on: bool) -> Student:
        """At its start, the same in all processes. goes_on: its weights are read from a checkpoint afterwards."""
        model, settings = self._source.model, self._settings
        student = make_student(model, original, self._codecs, None)
        if settings.start == "calibrated" and not goes_on:
            student.load_state_dict(_loaded(self._calibrated(original, mixture)))
        return student

    def _calibrated(self, original: Original, mixture: Mixture) -> Path:
        """The file of a student's state that has the calibrated code of every matrix."""
        path = self._work / "start.pt"
        if self._world.first and not path.exists():
            step = self._listener.stage("calibrating the start")
            windows = mixture.sequences(0, self._calibration(mixture))
            student = make_student(self._source.model, original, self._codecs, windows, step)
            save_whole(path, student.state_dict())
        self._world.wait()
        return path

    def _calibration(self, mixture: Mixture) -> int:
        """Sequences."""
        return min(len(mixture), -(-_CALIBRATION // self._settings.sequence))

    def _blocks(
        self, original: Original, mixture: Mixture, held_out: Tokens, folder: RunFolder, progress: Progress
    ) -> tuple[Training, Held]:
        """The whole model, from rounding or from the calibrated code (start_by_time.py); with a share for layers from
        these or from the calibrated code, whichever does better on held-out text."""
        settings, begun, goes_on = self._settings, time.monotonic(), (folder.path / STATE).exists()
        rounded = self._begins_rounded(original, mixture)
        calibrated = None
        if not rounded and not goes_on:
            calibrated = self._calibrated(original, mixture)
        if settings.layers_share and not goes_on:
            student = self._layers(original, mixture, time.monotonic() - begun)
        else:
            student = make_student(self._source.model, original, self._codecs, None)
        asked = self._finish(rounded, time.monotonic() - begun)
        training = Training(student, original, mixture, held_out, asked, self._world, folder, progress)
        if calibrated is not None:
            taken, read = True, self._calibration(mixture)
            if settings.layers_share:
                taken = training.offer(_loaded(calibrated), read)
            else:
                training.take(_loaded(calibrated), read)
            if taken:
                self._listener.tell("the calibrated code is the start: its codes stay, scales and norms are trained")
        return training, training.run() if settings.layers_share < 1 else training.finish()

    def _begins_rounded(self, original: Original, mixture: Mixture) -> bool:
        """The same when a killed run goes on."""
        settings, model, path = self._settings, self._source.model, self._work / "start.json"
        if settings.layers_share:
            return False

        def decide() -> dict[str, Any]:
            tokens: float = settings.tokens or _BLOCKS_TOKENS
            if settings.minutes is not None:
                each = seconds_per_token(original, mixture.sequences(0, 1))
                tokens = min(settings.tokens or math.inf, 60 * settings.minutes / each)
            return {"rounded": allows_rounding(model, tokens)}

        return bool(decided(path, decide)["rounded"])

    def _layers(self, original: Original, mixture: Mixture, before: float) -> Student:
        """One by one. before: seconds that calibration took."""
        settings, seconds = self._settings, None
        if settings.minutes is not None:
            seconds = max(60 * settings.minutes * settings.layers_share - before, 1.0)
        return heal_blocks(
            self._source.model,
            original,
            self._codecs,
            mixture.sequences(0, max(_LEAST_WINDOWS, self._layer_tokens() // settings.sequence)),
            BlockSettings(rate=_LAYER_RATE * settings.rate, seconds=seconds, seed=settings.seed),
            self._work / "blocks.pt",
            self._listener.stage("healing layer by layer"),
        )

    def _layer_tokens(self) -> int:
        """That every layer is trained on, some rounds."""
        return (self._settings.tokens or _BLOCKS_TOKENS) // _LAYER_PART

    def _finish(self, rounded: bool, seconds: float) -> Settings:
        """The training of the whole model, after what took so many seconds; the same when a killed run goes on."""
        settings = self._settings
        asked = replace(settings, warmup=_WARMUP, evaluations=_EVALUATIONS)
        if not rounded:
            asked = replace(asked, rate=_LATER_RATE * settings.rate)
        if settings.minutes is None:
            return replace(asked, tokens=settings.tokens or _BLOCKS_TOKENS)
        left = max(settings.minutes - seconds / 60, 1 / 60)
        return replace(asked, **decided(self._work / "finish.json", lambda: {"minutes": left}))

    def _identity(self, model_digest: str) -> dict[str, Any]:
        """What decides the result; other settings may change when a run goes on."""
        settings = self._settings
        texts = {
            name: hashlib.sha256(path.read_bytes()).hexdigest() if path is not None and path.is_file() else None
            for name, path in (("text", settings.text), ("prompts", settings.prompts))
        }
        codecs = digest(sorted((name, codec.name) for name, codec in self._codecs.items()))
        names = ("method", "text_share", "own_tokens", "sequence", "batch", "start", "layers_share", "seed")
        return {"model": model_digest, "recipe": codecs, "version": _VERSION, **texts} | {
            name: getattr(settings, name) for name in names
        }

    def _facts(self, held: Held, tokens: int) -> dict[str, Any]:
        settings = self._settings
        asked = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()}
        return {
            "recipe": self._recipe.name,
            "method": settings.method,
            "tokens": tokens or self._layer_tokens(),
            "text": self._sources.description,
            "int8": settings.int8_share > 0,
            "held_out": asdict(held),
            "settings": asked,
        }


def _loaded(path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(path, weights_only=True)
    return found


def _check_places(settings: Settings, output: Path) -> None:
    """What can be seen before there is a folder of the run."""
    for place in (output, settings.own_text):
        if place is not None and place.exists() and not place.is_dir():
            raise OutputError(f"{place} is a file", "give the name of a folder")
    for text in (settings.text, settings.prompts):
        if text is not None:
            read_text(text)


def _check(settings: Settings, world: World, source: Source) -> None:
    if source.spec.ternary:
        raise UnsupportedError(f"{source.spec.name} is ternary as trained: there is nothing to heal")
    if settings.method == "blocks" and (world.size > 1 or settings.device != "cpu"):
        raise ArgumentError("`method` blocks: is for one process on a CPU; a GPU does better with distill")
    if settings.method == "blocks" and settings.start != "rounded":
        raise ArgumentError("`start` is for `method` distill: blocks begins as the time allows")
    if settings.batch % world.size:
        raise ArgumentError(f"`batch` {settings.batch}: must be a multiple of the {world.size} processes")
    if settings.sequence > source.spec.context:
        raise ArgumentError(f"`sequence` {settings.sequence}: this model was trained for {source.spec.context} tokens")


@contextmanager
def _out_of_memory(settings: Settings) -> Iterator[None]:
    """Memory that is short becomes a line that says which setting to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not known and "can't allocate memory" not in str(error):  # what torch says of a CPU
            raise
        what = f"lower `micro_batch` (now {min(settings.micro_batch, settings.batch)})"
        if not settings.checkpointing:
            what += ", or set `checkpointing`"
        raise OutOfMemory("memory is short for a training step", what) from error
