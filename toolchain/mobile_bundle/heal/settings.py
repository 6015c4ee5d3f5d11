"""What is asked of a healing run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mobile_bundle.errors import ArgumentError

METHODS = ("distill", "blocks")
STARTS = ("calibrated", "rounded")


@dataclass(frozen=True)
class Settings:
    """method: "distill" trains the whole model against the original's distribution; "blocks" one layer after the other
    against the original's hidden states. minutes, tokens: how long; the first that is reached counts; tokens are those
    trained on. text: of the user, plain or chat JSONL; text_share: its part of the training tokens, the rest is text
    that the model writes itself. own_tokens: how many of those; own_text: a folder that keeps them for other runs,
    None: with the run. prompts: a text whose lines begin documents that the model writes, to set its language.
    sequence: tokens of a sequence; batch: sequences of a step, over all processes; micro_batch: sequences that one
    device computes together. rate: of learning, at its peak; warmup: steps until then. start: from the calibrated code
    or from rounding. int8_share: part of the run, its last, in which inputs are rounded to int8 as in the engine.
    average_share: part of the run, its last, over whose weights the mean is taken. evaluations: how often the held-out
    text is read; patience: evaluations without a better KL that end the run. save_minutes: between checkpoints. device:
    "cpu" or "cuda". checkpointing: compute activations again rather than keep them. compile: by torch.compile. seed: of
    everything random."""

    method: str = "distill"
    minutes: float | None = None
    tokens: int | None = None
    text: Path | None = None
    text_share: float = 0.25
    own_tokens: int = 2_000_000
    own_text: Path | None = None
    prompts: Path | None = None
    sequence: int = 512
    batch: int = 48
    micro_batch: int = 48
    rate: float = 1e-3
    warmup: int = 100
    start: str = "calibrated"
    int8_share: float = 0.3
    average_share: float = 0.1
    evaluations: int = 20
    patience: int = 5
    save_minutes: float = 3.0
    device: str = "cpu"
    checkpointing: bool = False
    compile: bool = False
    seed: int = 0

    def check(self) -> None:
        """ArgumentError for what cannot be."""
        if self.method not in METHODS:
            raise ArgumentError(f"`method` {self.method!r}: must be one of {', '.join(METHODS)}")
        if self.start not in STARTS:
            raise ArgumentError(f"`start` {self.start!r}: must be one of {', '.join(STARTS)}")
        if self.device not in ("cpu", "cuda"):
            raise ArgumentError(f"`device` {self.device!r}: must be cpu or cuda")
        if self.minutes is None and self.tokens is None:
            raise ArgumentError("nothing says how long to train", "give `minutes` or `tokens`")
        for name in ("sequence", "batch", "micro_batch", "evaluations", "patience", "own_tokens"):
            _positive(name, getattr(self, name))
        for name in ("minutes", "tokens", "rate", "save_minutes"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name))
        for name in ("text_share", "int8_share", "average_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ArgumentError(f"`{name}` {getattr(self, name)}: must be from 0 to 1")
        if self.sequence < 8:
            raise ArgumentError(f"`sequence` {self.sequence}: must be at least 8")


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ArgumentError(f"`{name}` {value}: must be above 0")
