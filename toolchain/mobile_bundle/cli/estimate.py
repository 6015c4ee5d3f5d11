"""What a bundle of a checkpoint would take, by recipe, without building it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from mobile_bundle.build.estimate import estimate_bundle
from mobile_bundle.build.recipe import recipe_names
from mobile_bundle.cli.common import megabytes, positive, print_json, recipe_name
from mobile_bundle.native import KV_TYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("model", type=Path, help="directory of the checkpoint")
    parser.add_argument("--recipe", type=recipe_name, help="one recipe (default: all of them)")
    parser.add_argument("--context", type=positive, default=0, help="tokens of context (default: the bundle's)")
    parser.add_argument("--kv", choices=KV_TYPES, default="int8")
    parser.add_argument("--json", action="store_true")


def run(options: argparse.Namespace) -> int:
    """Prints a row per recipe."""
    names = [options.recipe] if options.recipe else recipe_names()
    rows = [estimate_bundle(options.model, name, options.context, options.kv) for name in names]
    if options.json:
        print_json([asdict(row) for row in rows])
        return 0
    print(
        f"{'recipe':<14} {'bundle':>12} {'bits/w':>7} {'peak RAM':>12} {'anonymous':>12} {'KV/token':>10} {'phone':>6}"
    )
    for row in rows:
        print(
            f"{row.recipe:<14} {megabytes(row.bytes):>12} {row.bits_per_weight:>7.3f} "
            f"{megabytes(row.predicted.peak_bytes):>12} {megabytes(row.predicted.anon_bytes):>12} "
            f"{row.predicted.kv_bytes_per_token:>10,} {row.min_device_ram_gb:>3} GB"
        )
    return 0
