"""Heals a checkpoint for a format of few bits: trains it with the rounding in place. The result is a checkpoint that
build-mobile-bundle stores without loss. Several GPUs: torchrun (docs/HEALING.md)."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

from mobile_bundle.api.heal import heal
from mobile_bundle.cli.common import Steps, Told, output_path, positive, positive_number, print_json
from mobile_bundle.errors import printable
from mobile_bundle.pipeline.request import Step

_SETTINGS = [
    "method",
    "layers_share",
    "minutes",
    "tokens",
    "text",
    "text_share",
    "own_tokens",
    "own_text",
    "prompts",
    "sequence",
    "batch",
    "micro_batch",
    "rate",
    "temperature",
    "hidden_states",
    "anneal_share",
    "start",
    "device",
    "checkpointing",
    "compile",
    "graph",
    "shard",
    "seed",
]
_SECONDS = 10
"""Between two lines of progress."""
_ROUNDS = 6
"""That a text may be read before more text is worth more (docs/HEALING.md)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("model", type=Path, help="a checkpoint directory or a GGUF file")
    parser.add_argument("-o", "--output", type=output_path, required=True, help="the checkpoint directory to write")
    parser.add_argument(
        "--recipe",
        required=True,
        help="bitnet-row, bitnet, bitnet-1.25bit, affine-2bit, affine-3bit or another codec; CODEC+CODEC names the "
        "embedding's, too (default: 4 bits in groups of 32); or a recipe file (.yaml)",
    )
    parser.add_argument(
        "--method",
        choices=("distill", "blocks"),
        help="distill: the whole model from rounding (default); blocks: for a CPU, from rounding or calibrated code, "
        "whichever suits the time",
    )
    parser.add_argument(
        "--layers-share",
        type=float,
        metavar="SHARE",
        help="blocks: part of the minutes for calibration and layers one by one (default 0: no layers; 1: no more than "
        "these, in little memory)",
    )
    parser.add_argument("--minutes", type=positive_number, help="of training at most; writing own text comes before")
    parser.add_argument("--tokens", type=positive, help="to train on at most")
    parser.add_argument(
        "--text",
        type=Path,
        help="a text to train on besides the model's own: UTF-8, .xz, or conversations (.jsonl, a line each: "
        '{"messages": [{"role": "user", "content": "..."}, ...]})',
    )
    parser.add_argument(
        "--text-share", type=float, metavar="SHARE", help="its part of the tokens (default 0.25; blocks: 1)"
    )
    parser.add_argument(
        "--own-tokens",
        type=positive,
        metavar="N",
        help="tokens that the model writes itself (default 40,000,000 on a GPU, else 200,000; blocks: none)",
    )
    parser.add_argument("--own-text", type=Path, metavar="FOLDER", help="keeps what the model wrote for other runs")
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="a text whose paragraphs' first words begin the model's own documents",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default cpu")
    parser.add_argument("--sequence", type=positive, help="tokens of a sequence (default 1,024 on a GPU, else 256)")
    parser.add_argument("--batch", type=positive, help="sequences of a step (default 24 on a GPU, else 4)")
    parser.add_argument(
        "--micro-batch", type=positive, metavar="N", help="sequences computed together (default: --batch)"
    )
    parser.add_argument("--rate", type=positive_number, help="learning rate (default 0.001)")
    parser.add_argument(
        "--temperature", type=positive_number, metavar="T", help="softens both distributions of the loss (default 1)"
    )
    parser.add_argument(
        "--hidden-states",
        type=positive_number,
        metavar="WEIGHT",
        help="adds the distance between the layers' outputs to the loss (default: not)",
    )
    parser.add_argument(
        "--anneal-share",
        type=float,
        metavar="SHARE",
        help="1.25 bits: part of the run, its first, in which the zeros come bit by bit (default 0)",
    )
    parser.add_argument("--start", choices=("calibrated", "rounded"), help="default rounded")
    parser.add_argument("--checkpointing", action="store_true", default=None, help="less memory, a third more time")
    parser.add_argument("--compile", action="store_true", default=None, help="by torch.compile: worth it on a GPU")
    parser.add_argument("--graph", action="store_true", default=None, help="record steps as CUDA graphs: fewer calls")
    parser.add_argument(
        "--shard",
        action="store_true",
        default=None,
        help="with torchrun: spread weights, gradients and optimiser over the GPUs (FSDP)",
    )
    parser.add_argument("--seed", type=int, help="default 0")
    parser.add_argument("--json", action="store_true")


def run(options: argparse.Namespace) -> int:
    """Heals and prints what the result is worth."""
    given = {name: getattr(options, name) for name in _SETTINGS}
    with Told():
        healed = heal(
            options.model,
            options.output,
            recipe=options.recipe,
            progress=_Lines(),
            **{name: value for name, value in given.items() if value is not None},
        )
    if options.json:
        print_json({"path": str(healed.path), "lost": healed.lost, "rounds": healed.rounds, **asdict(healed.held)})
        return 0
    held = healed.held
    print(
        f"{printable(str(healed.path))}: perplexity {held.perplexity:.3f} (original {held.original_perplexity:.3f}), "
        f"KL {held.kl:.4f} nats, best token the same at {100 * held.agreement:.1f} %, on {held.tokens:,} held-out "
        f"tokens"
    )
    if healed.lost:
        print(f"note: {healed.lost} matrices lie on no grid: a build stores them with a loss", file=sys.stderr)
    if healed.rounds > _ROUNDS:
        print(
            f"note: a source of the text was read {healed.rounds:.0f} times; more --own-tokens, a longer --text or a "
            "smaller --text-share would do better",
            file=sys.stderr,
        )
    return 0


class _Lines:
    """Bars for the stages; for the training a line every _SECONDS, and for every evaluation."""

    def __init__(self) -> None:
        self._steps, self._told = Steps(), 0.0

    def __call__(self, what: object) -> None:
        if isinstance(what, Step):
            self._steps(what)
        elif getattr(what, "kl", None) is not None or time.monotonic() - self._told >= _SECONDS:
            self._told = time.monotonic()
            print(what, file=sys.stderr, flush=True)
