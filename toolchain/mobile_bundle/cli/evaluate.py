"""Perplexity of a bundle, or of a checkpoint directory or GGUF file, on a text."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from mobile_bundle.cli.common import Progress, positive, print_json
from mobile_bundle.evaluate.perplexity import measure, read_text, token_windows
from mobile_bundle.evaluate.subject import open_subject
from mobile_bundle.native import KV_TYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "model", type=Path, help="NAME.mbundle, or a checkpoint directory or GGUF file (coded as `raw` for this)"
    )
    parser.add_argument("--text", type=Path, required=True, help="UTF-8, or .xz; U+001E on a line parts documents")
    parser.add_argument("--context", type=positive, default=512, help="tokens per window (default 512)")
    parser.add_argument("--windows", type=positive, help="number of windows (default: the whole text)")
    parser.add_argument("--kv", choices=KV_TYPES, default="int8", help="type of the KV cache (default int8)")
    parser.add_argument("--threads", type=positive, default=0)
    parser.add_argument("--json", action="store_true")


def run(options: argparse.Namespace) -> int:
    """Measures and prints."""
    text = read_text(options.text)
    with open_subject(options.model, Progress("coding weights", "w")) as (model, tokenizer, bos):
        windows = token_windows(tokenizer, bos, text, options.context, options.windows or 0)
        result = measure(model, windows, options.kv, options.threads, Progress("perplexity", "window"))
    if options.json:
        print_json(asdict(result))
    else:
        print(
            f"perplexity {result.perplexity:.3f} on {result.windows} windows of {result.context} tokens "
            f"({result.tokens:,} scored), {options.text.name}"
        )
    return 0
