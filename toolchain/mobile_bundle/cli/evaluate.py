"""Measures the perplexity of a bundle, a checkpoint directory or a GGUF file on a text."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from mobile_bundle.api.evaluate import evaluate
from mobile_bundle.cli.common import Steps, positive, print_json, revision_option
from mobile_bundle.corpus.text import read_text
from mobile_bundle.errors import printable
from mobile_bundle.evaluate.divergence import Divergence
from mobile_bundle.native.engine import KV_TYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "model",
        help="NAME.mbundle, a checkpoint directory, a GGUF file, or OWNER/NAME on the hub (all but a bundle are coded "
        "as `raw`)",
    )
    parser.add_argument(
        "--text", type=Path, required=True, help="UTF-8, or .xz; a line containing only U+001E separates documents"
    )
    parser.add_argument("--context", type=positive, default=512, help="tokens per window (default 512)")
    parser.add_argument("--windows", type=positive, help="number of windows (default: the whole text)")
    parser.add_argument("--kv", choices=KV_TYPES, default="int8", help="type of the KV cache (default int8)")
    parser.add_argument("--threads", type=positive, default=0)
    parser.add_argument(
        "--against",
        metavar="ORIGINAL",
        help="the model that it was built from, as MODEL is given: also print KL divergence and how often the best "
        "token is the same",
    )
    revision_option(parser)
    parser.add_argument("--json", action="store_true")


def run(options: argparse.Namespace) -> int:
    """Measures and prints."""
    result = evaluate(
        options.model,
        read_text(options.text),
        against=options.against,
        context=options.context,
        windows=options.windows or 0,
        kv=options.kv,
        threads=options.threads,
        revision=options.revision,
        progress=Steps(),
    )
    if options.json:
        print_json(asdict(result))
        return 0
    scored = (
        f"on {result.windows} windows of {result.context} tokens ({result.tokens:,} scored), "
        f"{printable(options.text.name)}"
    )
    print(f"perplexity {result.perplexity:.3f} {scored}")
    if isinstance(result, Divergence):
        print(
            f"original   {result.original_perplexity:.3f}: {100 * result.increase:+.2f} % perplexity\n"
            f"KL {result.kl:.4f} nats per token (standard error {result.kl_error:.4f}), "
            f"99th percentile {result.kl_99:.3f}\n"
            f"the best token is the same at {100 * result.agreement:.1f} % of the tokens "
            f"(standard error {100 * result.agreement_error:.1f})"
        )
    return 0
