"""Heals a checkpoint: the stages in their order."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobile_bundle.codecs import StreamCodec
from mobile_bundle.corpus.openings import open_turn
from mobile_bundle.corpus.text import DEFAULT_TEXT, read_text
from mobile_bundle.errors import ArgumentError, OutOfMemory, OutputError, UnsupportedError
from mobile_bundle.files.disk import write_file
from mobile_bundle.files.work_folder import scratch_folder
from mobile_bundle.healing.blocks import FINISH_TOKENS, BlockSettings, finish_rate, heal_blocks
from mobile_bundle.healing.decoders import Original, Student, run_layer
from mobile_bundle.healing.evaluation import Held
from mobile_bundle.healing.mixture import Mixture, Part, Tokens
from mobile_bundle.healing.own_text import Openings, distinct, own_text
from mobile_bundle.healing.progress import Trained
from mobile_bundle.healing.recipe import heal_codecs
from mobile_bundle.healing.result import card_text, output_directory, write_result
from mobile_bundle.healing.settings import Settings
from mobile_bundle.healing.sharding import shard
from mobile_bundle.healing.start import make_student
from mobile_bundle.healing.state import LOG, STATE, RunFolder, save_whole
from mobile_bundle.healing.text import openings_of_text, text_sequences
from mobile_bundle.healing.training import Training
from mobile_bundle.healing.world import World, join_world
from mobile_bundle.native.tokenizer import Tokenizer
from mobile_bundle.pipeline.identity import tensor_digest
from mobile_bundle.pipeline.request import BuildRequest, Listener
from mobile_bundle.pipeline.source import Source, open_source
from mobile_bundle.planning.recipe import Recipe

Progress = Callable[[Trained], None]

_VERSION = 2
"""Of what a checkpoint holds and how it goes on: 2 has a rate per grid."""
_HELD_OUT = 16
"""Sequences of each source that are kept for evaluation, or a tenth of a small source."""
_BLOCKS_TOKENS = 24_576
"""That every layer is trained on, some rounds."""
_LEAST_WINDOWS = 8
_WARMUP, _EVALUATIONS = 20, 4
"""Steps, and how often held-out text is read, of the whole model after its layers."""
_CALIBRATION = 49_152
"""Tokens that the start is calibrated on, as many as a build's calibration reads."""
_AT_ONCE = {"cpu": 64, "cuda": 1536}
"""Sequences that the model writes side by side."""


@dataclass(frozen=True)
class Healed:
    """path: the checkpoint; held: what it does on held-out text; lost: matrices that a build would not store without
    loss (none is expected); rounds: how often the source that was read most was read, 0 for blocks."""

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

    def heal(self, progress: Progress) -> Healed:
        model, settings, world = self._source.model, self._settings, self._world
        model_digest = _digest([tensor_digest(model, tensor) for tensor in model.tensors])
        target = output_directory(self._output) if world.first else None
        if target is not None:
            target.__enter__()  # first: an output that cannot be leaves no folder of a run
        try:
            folder = RunFolder(self._work, self._identity(model_digest), world.first)
            dtype = torch.bfloat16 if world.device.type == "cuda" else torch.float32
            original = Original(model, world.device, dtype)
            if settings.compile:
                original.layer = torch.compile(run_layer, dynamic=False)  # `like` is a number, no size
            parts, held_out = self._texts(original, model_digest)
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
            windows = mixture.sequences(0, min(len(mixture), -(-_CALIBRATION // self._settings.sequence)))
            student = make_student(self._source.model, original, self._codecs, windows, step)
            save_whole(path, student.state_dict())
        self._world.wait()
        return path

    def _blocks(
        self, original: Original, mixture: Mixture, held_out: Tokens, folder: RunFolder, progress: Progress
    ) -> tuple[Training, Held]:
        """The layers one by one, or the calibrated code where that does better on held-out text; then the whole."""
        settings, model, begun = self._settings, self._source.model, time.monotonic()
        if (folder.path / STATE).exists():
            student, asked = make_student(model, original, self._codecs, None), self._finish(0.0, 0.0)
            training = Training(student, original, mixture, held_out, asked, self._world, folder, progress)
        else:
            calibrated = self._calibrated(original, mixture)
            before = time.monotonic() - begun
            seconds = None
            if settings.minutes is not None:
                seconds = max(60 * settings.minutes * settings.layers_share - before, 1.0)
            tokens = settings.tokens or _BLOCKS_TOKENS
            student = heal_blocks(
                model,
                original,
                self._codecs,
                mixture.sequences(0, max(_LEAST_WINDOWS, tokens // settings.sequence)),
                BlockSettings(rate=settings.rate, seconds=seconds, seed=settings.seed),
                self._work / "blocks.pt",
                self._listener.stage("healing layer by layer"),
            )
            asked = self._finish(before, time.monotonic() - begun - before)
            training = Training(student, original, mixture, held_out, asked, self._world, folder, progress)
            if training.offer(_loaded(calibrated)):
                self._listener.tell(
                    "calibrated coding does better than layers one by one: its codes stay, scales and norms are trained"
                )
        return training, training.run() if settings.layers_share < 1 else training.finish()

    def _finish(self, before: float, seconds: float) -> Settings:
        """The training of the whole model after `seconds` of layers, and the calibration before them; the same when a
        killed run goes on."""
        settings, path = self._settings, self._work / "finish.json"
        step, read = settings.batch * settings.sequence, settings.tokens or _BLOCKS_TOKENS
        if settings.minutes is None:
            tokens = FINISH_TOKENS * read
            rate = finish_rate(settings.rate, tokens / step)
            return replace(settings, tokens=tokens, rate=rate, warmup=_WARMUP, evaluations=_EVALUATIONS)
        if not path.exists():
            left = max(60 * settings.minutes - before - seconds, 1.0)
            # a token costs the whole model about what it costs all layers
            steps = left / max(seconds, 1e-9) * read * BlockSettings.rounds / step
            decided = {"minutes": left / 60, "rate": finish_rate(settings.rate, steps)}
            write_file(path, json.dumps(decided).encode())
        decided = json.loads(path.read_text())
        return replace(settings, tokens=None, warmup=_WARMUP, evaluations=_EVALUATIONS, **decided)

    def _texts(self, original: Original, model_digest: str) -> tuple[list[Part], Tokens]:
        """What is trained on, and the held-out sequences."""
        settings = self._settings
        text, share = settings.text, settings.text_share if settings.text else 0.0
        if settings.method == "blocks":  # text of its own would take longer than the layers, but where it is asked for
            text, share = text or DEFAULT_TEXT, settings.text_share if settings.own_tokens else 1.0
        found: list[tuple[Tokens, float]] = []
        with self._tokenizer() as tokenizer:
            if text is not None and share > 0:
                compiled = self._source.tokenizer
                sequences = text_sequences(text, tokenizer, compiled.bos, compiled.chat_end, settings.sequence)
                found.append((sequences, share))
            if share < 1:
                found.append((self._own(original, tokenizer, model_digest), 1 - share))
        parts, held_out = [], []
        for sequences, weight in found:
            held = min(_HELD_OUT, len(sequences) // 10)
            if held == 0:
                raise ArgumentError(
                    f"a source of the text has {len(sequences)} sequences of {settings.sequence} tokens, which leaves "
                    "none to hold out",
                    "give a longer text, more `own_tokens` or a shorter `sequence`",
                )
            parts.append(Part(sequences[:-held], weight))
            held_out.append(sequences[-held:])
        return parts, np.concatenate(held_out)

    def _own(self, original: Original, tokenizer: Tokenizer, model_digest: str) -> Tokens:
        settings, world = self._settings, self._world
        bos = self._source.tokenizer.bos
        documents = [_document_start(tokenizer, bos, self._source.spec.eos)]
        if settings.prompts is not None:
            documents = openings_of_text(settings.prompts, tokenizer, bos, _PROMPT_TOKENS)
        openings = Openings(open_turn(tokenizer), documents)
        at_once = min(_AT_ONCE[settings.device], -(-settings.own_tokens // settings.sequence))
        key = [model_digest, settings.sequence, at_once, settings.seed, settings.device]
        key += [_digest([opening.tolist() for opening in documents])]
        folder = (settings.own_text or self._work) / f"own-{_digest(key)[:12]}"
        step = self._listener.stage("writing own text")
        files = own_text(
            original,
            openings,
            folder,
            tokens=settings.own_tokens,
            length=settings.sequence,
            at_once=at_once,
            seed=settings.seed,
            share=(world.rank, world.size),
            progress=lambda done, total: step(done, total, ""),
            tell=self._listener.tell,
        )
        world.wait()
        return distinct(np.concatenate([np.load(path) for path in files]))

    @contextmanager
    def _tokenizer(self) -> Iterator[Tokenizer]:
        with scratch_folder() as directory:
            path = directory / "tokenizer.bin"
            write_file(path, bytes(self._source.tokenizer.data))
            opened = Tokenizer(path)
            try:
                yield opened
            finally:
                opened.close()

    def _identity(self, model_digest: str) -> dict[str, Any]:
        """What decides the result; other settings may change when a run goes on."""
        settings = self._settings
        texts = {
            name: hashlib.sha256(path.read_bytes()).hexdigest() if path is not None and path.is_file() else None
            for name, path in (("text", settings.text), ("prompts", settings.prompts))
        }
        codecs = _digest(sorted((name, codec.name) for name, codec in self._codecs.items()))
        names = ("method", "text_share", "own_tokens", "sequence", "batch", "start", "seed")
        return {"model": model_digest, "recipe": codecs, "version": _VERSION, **texts} | {
            name: getattr(settings, name) for name in names
        }

    def _facts(self, held: Held, tokens: int) -> dict[str, Any]:
        settings = self._settings
        asked = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()}
        own = "text that the model wrote itself"
        text = (
            own if settings.text is None else f"{100 * settings.text_share:.0f} % {settings.text.name}, the rest {own}"
        )
        return {
            "recipe": self._recipe.name,
            "method": settings.method,
            "tokens": tokens if settings.method == "distill" else settings.tokens or _BLOCKS_TOKENS,
            "text": text,
            "int8": settings.int8_share > 0,
            "held_out": asdict(held),
            "settings": asked,
        }


def _loaded(path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(path, weights_only=True)
    return found


_PROMPT_TOKENS = 32
"""Of each of the user's openings."""


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
    if settings.batch % world.size:
        raise ArgumentError(f"`batch` {settings.batch}: must be a multiple of the {world.size} processes")
    if settings.sequence > source.spec.context:
        raise ArgumentError(f"`sequence` {settings.sequence}: this model was trained for {source.spec.context} tokens")


def _document_start(tokenizer: Tokenizer, bos: int | None, ends: tuple[int, ...]) -> Tokens:
    """The token that documents begin with in the model's own training: <|endoftext|> where there is one, else BOS, else
    an end token."""
    text_end = tokenizer.encode("<|endoftext|>")
    if len(text_end) == 1:
        return text_end.copy()
    return np.array([bos if bos is not None else ends[0] if ends else 0], np.int32)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


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
