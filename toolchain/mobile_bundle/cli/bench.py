"""Tokens per second, load time and memory, each test in a fresh process of a bundle's runner."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from mobile_bundle.cli.common import positive, print_json
from mobile_bundle.container.manifest import read_manifest
from mobile_bundle.evaluate.speed import measure_speed
from mobile_bundle.report.text import megabytes
from mobile_bundle.runtimes import RUNTIMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments, named as llama-bench names them."""
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-p", "--prompt-tokens", type=positive, default=512, help="tokens of the prefill test")
    parser.add_argument("-n", "--new-tokens", type=positive, default=128, help="tokens of the decode test")
    parser.add_argument("-r", "--repetitions", type=positive, default=5)
    parser.add_argument("-t", "--threads", type=positive, action="append", help="threads; may be repeated")
    parser.add_argument("--runtime", choices=RUNTIMES, action="append", help="default: native; may be repeated")
    parser.add_argument("--json", action="store_true")


def run(options: argparse.Namespace) -> int:
    """Prints a table in llama-bench's form with columns for memory, or JSON."""
    manifest = read_manifest(options.bundle)
    results = [
        measure_speed(options.bundle, flag, tokens, threads, options.repetitions, runtime)
        for threads in options.threads or [0]
        for flag, tokens in (("-p", options.prompt_tokens), ("-n", options.new_tokens))
        for runtime in dict.fromkeys(options.runtime or ["native"])
    ]
    if options.json:
        print_json([asdict(result) for result in results])
        return 0
    print(
        "| model | size | params | runtime | threads | test | t/s | load s | first token s | peak RSS | anonymous "
        "| majflt |"
    )
    print("|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for result in results:
        speed = result.tokens_per_second
        print(
            f"| {manifest['model']['name']} {manifest['recipe']} | {megabytes(manifest['bytes'])} "
            f"| {manifest['model']['parameters'] / 1e6:.1f} M | {result.runtime} | {result.threads} | {result.test} "
            f"| {speed.mean:.2f} ± {speed.sd:.2f} | {result.load_seconds:.3f} | {result.first_token_seconds:.3f} "
            f"| {megabytes(result.peak_rss_bytes)} | {megabytes(result.peak_anon_bytes)} | {result.major_faults} |"
        )
    return 0
