"""Estimates size, memory and speed of every recipe without building, for a checkpoint or a well-known shape."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict

from mobile_bundle.api.estimate import estimate
from mobile_bundle.cli.common import Steps, positive, print_json, recipe_argument, revision_option, vocabulary_options
from mobile_bundle.corpus.languages import vocabulary_texts
from mobile_bundle.errors import ArgumentError
from mobile_bundle.models.hub import local_model
from mobile_bundle.native.engine import KV_TYPES
from mobile_bundle.pipeline.request import Listener
from mobile_bundle.planning.estimate import (
    DEFAULT_BANDWIDTH,
    BundleEstimate,
    checkpoint_shape,
    published_shape,
    shape_names,
)
from mobile_bundle.planning.recipe import usable_recipes
from mobile_bundle.report.text import megabytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "model", nargs="?", help="a checkpoint directory, a GGUF file, or OWNER/NAME on the hub (which is downloaded)"
    )
    what.add_argument(
        "--shape",
        choices=[*shape_names(), "all"],
        metavar="NAME",
        help="instead of a checkpoint, the shape of a published model, whose names `mobile-bundle models` explains",
    )
    revision_option(parser)
    vocabulary_options(parser)
    parser.add_argument("--recipe", type=recipe_argument, help="one recipe (default: all of them)")
    parser.add_argument("--context", type=positive, default=0, help="tokens of context (default: the bundle's)")
    parser.add_argument("--kv", choices=KV_TYPES, default="int8")
    parser.add_argument(
        "--bandwidth",
        type=_gigabytes,
        default=DEFAULT_BANDWIDTH,
        metavar="GB/S",
        help=f"bandwidth of the phone's memory (default {DEFAULT_BANDWIDTH / 1e9:g}, assumed for Cortex-A53 phones)",
    )
    parser.add_argument("--json", action="store_true")


def run(options: argparse.Namespace) -> int:
    """Prints a row per recipe."""
    texts = vocabulary_texts(options.vocabulary_from, options.languages)
    if options.model is None and texts:
        raise ArgumentError("`vocabulary_from` and `languages` need a checkpoint: a shape has no tokenizer")
    if options.model is not None:
        downloading = Listener(Steps()).stage("downloading")
        shapes = [checkpoint_shape(local_model(options.model, options.revision, downloading), texts)]
    else:
        names = shape_names() if options.shape == "all" else [options.shape]
        shapes = [published_shape(name) for name in names]
    tables = [
        [
            estimate(shape, recipe, context=options.context, kv=options.kv, bandwidth=options.bandwidth)
            for recipe in ([options.recipe] if options.recipe else usable_recipes(shape.tensors))
        ]
        for shape in shapes
    ]
    if options.json:
        print_json([asdict(row) for table in tables for row in table])
        return 0
    for table in tables:
        _print_table(table)
    print(
        f"peak RAM, anonymous, tokens/s: with a full context. layers: peak RAM with `--mapping layers`.\n"
        f"phone: the smallest phone of which half the memory holds the peak.\n"
        f"tokens/s: an estimate, {options.bandwidth / 1e9:g} GB/s divided by the bytes that a token reads.\n"
        f"On a smaller phone every token reads the weights from flash, several times slower."
    )
    for shape in shapes:
        if shape.form_bytes is not None:
            print(f"An answer in a given form (JSON schema, regex) takes up to {megabytes(shape.form_bytes)} more.")
    return 0


def _print_table(rows: list[BundleEstimate]) -> None:
    print(
        f"{rows[0].model}: {rows[0].parameters / 1e6:,.1f} M weights, a context of {rows[0].predicted.context} tokens"
    )
    print(
        f"{'recipe':<14} {'bundle':>12} {'installed':>12} {'bits/w':>7} {'peak RAM':>12} {'anonymous':>12} "
        f"{'layers':>12} {'KV/token':>10} {'phone':>6} {'tokens/s':>9}"
    )
    for row in rows:
        print(
            f"{row.recipe:<14} {megabytes(row.bytes):>12} {megabytes(row.bytes + row.cache_bytes):>12} "
            f"{row.bits_per_weight:>7.3f} {megabytes(row.predicted.peak_bytes):>12} "
            f"{megabytes(row.predicted.anon_bytes):>12} {megabytes(row.layers_peak_bytes):>12} "
            f"{row.predicted.kv_bytes_per_token:>10,} {row.min_device_ram_gb:>3} GB {row.tokens_per_second:>9.1f}"
        )
    print()


def _gigabytes(text: str) -> float:
    """An argparse type: GB/s to bytes per second."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a bandwidth in GB/s, such as 4")
    return value * 1e9
