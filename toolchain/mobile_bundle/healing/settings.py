"""What is asked of a healing run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mobile_bundle.errors import ArgumentError

METHODS = ("distill", "blocks")
STARTS = ("calibrated", "rounded")
_GPU_STEP = 24_576
"""Tokens of a step on a GPU."""
_MOST_SEQUENCES = 65_536
"""Of a step: more is a slip of the finger, whose first batch never ends."""


@dataclass(frozen=True)
class Settings:
    """method: "distill" trains the whole model against the original's distribution; "blocks" is for a CPU: the whole
    model as well, from the calibrated code where there is no time to train it from rounding. layers_share: of "blocks",
    the part of the minutes for calibration and for layers one after the other against the original's hidden states,
    the better of which is the start then; 0: no layers; 1: no more than these, in the memory of one layer. minutes,
    tokens: how long; the first that is reached counts, and "blocks" ends after 589,824 tokens without a word. text: of
    the user, plain or chat JSONL; text_share: its part of the training tokens, the rest is text that the model writes
    itself. own_tokens: how many of those; own_text: a folder that keeps them for other runs, None: with the run.
    prompts: a text whose lines begin documents that the model writes, to set its language. sequence: tokens of a
    sequence; batch: sequences of a step, over all processes; micro_batch: sequences that one device computes together.
    rate: of learning, at its peak; warmup: steps until then.
    temperature: softens both distributions of the loss. hidden_states: weight of the distance between the hidden states
    of all layers, added to the divergence; 0: none. anneal_share: part of the run, its first, in which the zeros of
    1.25 bits come bit by bit. start: from the calibrated code or from rounding. int8_share: part of the run, its last,
    in which inputs are rounded to int8 as in the engine. average_shares: parts of the run, its last, over whose
    weights means are taken; the result is the best of them, of the last weights and of those of the best evaluation.
    evaluations: how often the held-out text is read; patience: evaluations without a better KL that end the run.
    save_minutes: between checkpoints. device: "cpu" or "cuda". checkpointing: compute activations again rather than
    keep them. compile: by torch.compile. graph: record steps as CUDA graphs. shard: spread weights, gradients and
    optimiser over the processes, for models whose states exceed one card. seed: of everything random.

    0 of own_tokens, sequence, batch, micro_batch and rate: what `resolved` puts there."""

    method: str = "distill"
    layers_share: float = 0.0
    minutes: float | None = None
    tokens: int | None = None
    text: Path | None = None
    text_share: float = 0.25
    own_tokens: int = 0
    own_text: Path | None = None
    prompts: Path | None = None
    sequence: int = 0
    batch: int = 0
    micro_batch: int = 0
    rate: float = 0.0
    temperature: float = 1.0
    hidden_states: float = 0.0
    anneal_share: float = 0.0
    warmup: int = 100
    start: str = "rounded"
    int8_share: float = 0.3
    average_shares: tuple[float, ...] = (0.1, 0.2)
    evaluations: int = 20
    patience: int = 5
    save_minutes: float = 3.0
    device: str = "cpu"
    checkpointing: bool = False
    compile: bool = False
    graph: bool = False
    shard: bool = False
    seed: int = 0

    def resolved(self, context: int) -> Settings:
        """With every number decided. context: the longest sequence of the model."""
        gpu = self.device == "cuda"
        blocks = self.method == "blocks"
        sequence = self.sequence or min(context, 1024 if gpu else 256)
        batch = self.batch or (max(8, _GPU_STEP // sequence) if gpu else 4)
        return replace(
            self,
            own_tokens=self.own_tokens or (40_000_000 if gpu else 0 if blocks else 200_000),
            sequence=sequence,
            batch=batch,
            micro_batch=min(batch, self.micro_batch or batch),
            rate=self.rate or 1e-3,
        )

    def check(self) -> None:
        """ArgumentError for what cannot be."""
        if self.graph and self.shard:
            raise ArgumentError("`graph` and `shard` exclude each other: what is gathered step by step is not recorded")
        if self.method not in METHODS:
            raise ArgumentError(f"`method` {self.method!r}: must be one of {', '.join(METHODS)}")
        if self.start not in STARTS:
            raise ArgumentError(f"`start` {self.start!r}: must be one of {', '.join(STARTS)}")
        if self.device not in ("cpu", "cuda"):
            raise ArgumentError(f"`device` {self.device!r}: must be cpu or cuda")
        if self.minutes is None and self.tokens is None and self.method != "blocks":
            raise ArgumentError("nothing says how long to train", "give `minutes` or `tokens`")
        self._check_numbers()

    def _check_numbers(self) -> None:
        for name in ("minutes", "tokens", "evaluations", "patience", "warmup", "save_minutes", "temperature"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ArgumentError(f"`{name}` {value}: must be above 0")
        for name in ("own_tokens", "batch", "micro_batch", "rate", "hidden_states"):
            if not getattr(self, name) >= 0:
                raise ArgumentError(f"`{name}` {getattr(self, name)}: must be above 0")
        for name in ("batch", "micro_batch"):
            if getattr(self, name) > _MOST_SEQUENCES:
                raise ArgumentError(f"`{name}` {getattr(self, name)}: must be at most {_MOST_SEQUENCES:,} sequences")
        if not 0 <= self.seed < 1 << 63:
            raise ArgumentError(f"`seed` {self.seed}: must be a whole number from 0, below 2 ** 63")
        if 0 != self.sequence < 8:
            raise ArgumentError(f"`sequence` {self.sequence}: must be at least 8")
        for name in ("text_share", "int8_share", "anneal_share", "layers_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ArgumentError(f"`{name}` {getattr(self, name)}: must be from 0 to 1")
        parts: object = self.average_shares  # from Python alone: no option of the command names it
        numbers = isinstance(parts, tuple) and all(isinstance(each, (int, float)) for each in parts)
        if not numbers or not all(0 < each <= 1 for each in self.average_shares):
            raise ArgumentError(f"average_shares {parts}: must be a tuple of numbers above 0, at most 1")
