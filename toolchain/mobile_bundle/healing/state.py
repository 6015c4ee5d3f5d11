"""Checkpoints of a run, and its log: what a killed run goes on from.

There is no position in the data and no random state to keep beside the step: which sequences a step reads, and every
random draw, are functions of its number and of the seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mobile_bundle.errors import InputError, OutputError
from mobile_bundle.files.disk import disk_errors, whole_file, write_file

STATE = "state.pt"
LOG = "training.jsonl"
_IDENTITY = "run.json"


@dataclass
class Mean:
    """weights: of `count` steps."""

    count: int
    weights: dict[str, Tensor]


@dataclass
class RunState:
    """step: that are done; seconds: of training so far; evaluated: evaluations so far; best_kl, best: the best of them
    and its student; worse: evaluations since; means: of the weights at the end, by the part of the run that they are
    taken over; codes_fixed: whether scales, offsets and vectors alone are trained; skipped: sequences before the first
    that is trained on; evaluation_seconds: of the shortest evaluation so far, 0 before there is one."""

    step: int = 0
    seconds: float = 0.0
    evaluated: int = 0
    best_kl: float = float("inf")
    best: dict[str, Tensor] | None = None
    worse: int = 0
    means: dict[float, Mean] = field(default_factory=dict)
    codes_fixed: bool = False
    skipped: int = 0
    evaluation_seconds: float = 0.0


class RunFolder:
    """The folder beside the output that holds an unfinished run. identity: what decides the run's result.

    OutputError if the folder holds another run."""

    def __init__(self, path: Path, identity: dict[str, Any], write: bool) -> None:
        self.path = path
        self._write = write
        known = path / _IDENTITY
        text = json.dumps(identity, indent=1, sort_keys=True)
        if known.exists():
            found = _read_json(known)
            differs = sorted(key for key in identity if found.get(key) != identity[key])
            if differs:
                raise OutputError(
                    f"{path} holds an unfinished run with another {differs[0]}",
                    "repeat that run's command to go on with it, or delete the folder",
                )
        elif write:
            write_file(known, text.encode())

    def save(self, state: RunState, student: dict[str, Tensor], optimiser: dict[str, Any]) -> None:
        """Replaces the checkpoint in one step. ResumableError if the disk is full."""
        if not self._write:
            return
        run = vars(state) | {"means": {share: vars(mean) for share, mean in state.means.items()}}
        save_whole(self.path / STATE, {"run": run, "student": student, "optimiser": optimiser})

    def load(self, device: torch.device) -> tuple[RunState, dict[str, Tensor], dict[str, Any]] | None:
        """What was saved last; None if nothing was. InputError if it is damaged."""
        path = self.path / STATE
        if not path.exists():
            return None
        try:
            found = torch.load(path, map_location=device, weights_only=True)
            means = {share: Mean(**mean) for share, mean in found["run"]["means"].items()}
            return RunState(**found["run"] | {"means": means}), found["student"], found["optimiser"]
        except Exception as error:  # a damaged file shows as almost anything
            raise InputError(f"{path} is damaged ({type(error).__name__})", "delete it: the run begins anew") from error

    def log(self, entry: dict[str, Any]) -> None:
        """Appends a line to the log."""
        if self._write:
            with disk_errors(self.path / LOG, 0), (self.path / LOG).open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def rewind_log(self, step: int) -> None:
        """Drops lines about steps after this one, or all before the first: they come again."""
        path = self.path / LOG
        if self._write and path.exists():
            kept = [line for line in path.read_text().splitlines() if step and _step(line) <= step]
            write_file(path, "".join(line + "\n" for line in kept).encode())


def digest(value: Any) -> str:
    """SHA-256, in hexadecimal, of what JSON can hold."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def save_whole(path: Path, value: Any) -> None:
    """A file of tensors that appears whole or not at all. ResumableError if the disk is full."""
    with whole_file(path) as file:
        _save(value, file)


def _save(value: Any, file: BinaryIO) -> None:
    try:
        torch.save(value, file)
    except RuntimeError as error:
        # the writer's own complaint about a half-written file hides the interrupt or the full disk behind it
        if isinstance(error.__context__, (KeyboardInterrupt, OSError)):
            raise error.__context__ from None
        raise


def decided(path: Path, decide: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was decided when a run began: the same when it goes on. A file that a kill cut off was not used yet."""
    found = _read_json(path)
    if not found:
        found = decide()
        write_file(path, json.dumps(found).encode())
    return found


def load_saved(path: Path) -> list[Any]:
    """The list that save_whole wrote; empty without the file. InputError if it is damaged."""
    if not path.exists():
        return []
    try:
        return list(torch.load(path, weights_only=True))
    except Exception as error:  # a damaged file shows as almost anything
        raise InputError(f"{path} is damaged ({type(error).__name__})", "delete it: the run begins anew") from error


def _step(line: str) -> float:
    """Of a log's line; one that was cut off belongs to no step."""
    try:
        return float(json.loads(line).get("step", 0))
    except (ValueError, AttributeError):
        return float("inf")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
