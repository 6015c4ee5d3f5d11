"""Shows what is in a bundle: sizes, bits per weight and error of every tensor, predicted memory."""

from __future__ import annotations

import argparse
from pathlib import Path

from mobile_bundle.api.bundle import open_bundle
from mobile_bundle.cli.common import print_json
from mobile_bundle.container.manifest import read_manifest
from mobile_bundle.report.text import megabytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--json", action="store_true", help="the whole manifest as JSON")


def run(options: argparse.Namespace) -> int:
    """Prints the manifest. Raises UserError when the bundle has none or a damaged one."""
    if options.json:
        print_json(read_manifest(options.bundle))
        return 0
    manifest = open_bundle(options.bundle).manifest
    model, predicted = manifest.model, manifest.predicted
    print(f"{model.name}: {model.architecture}, {model.parameters:,} parameters, recipe {manifest.recipe}")
    print(f"{megabytes(manifest.bytes)} in all, {manifest.bits_per_weight:.3f} bits per weight")
    print(
        f"predicted at {predicted.context} tokens: peak {megabytes(predicted.peak_bytes)} "
        f"(file {megabytes(predicted.file_bytes)}, anonymous {megabytes(predicted.anon_bytes)}, "
        f"KV {predicted.kv_bytes_per_token:,} bytes per token)"
    )
    for note in manifest.notes:
        print(f"note: {note}")
    for path, file in manifest.files.items():
        print(f"  {path:<32} {megabytes(file.bytes):>12}")
    width = max(len(tensor.name) for tensor in manifest.tensors)
    print(f"{'tensor':<{width}}  {'format':<10} {'shape':>15} {'bytes':>12} {'bits/w':>7} {'error':>9}")
    for tensor in manifest.tensors:
        shape = f"{tensor.rows} x {tensor.columns}"
        print(
            f"{tensor.name:<{width}}  {tensor.format:<10} {shape:>15} {tensor.bytes:>12,} "
            f"{tensor.bits_per_weight:>7.3f} {tensor.relative_error:>9.2e}"
        )
    return 0
