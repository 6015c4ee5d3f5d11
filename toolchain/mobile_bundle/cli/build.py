"""build-mobile-bundle: from a Hugging Face checkpoint to a bundle for an Android phone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import mobile_bundle
from mobile_bundle.build.pipeline import build_bundle
from mobile_bundle.build.recipe import recipe_names
from mobile_bundle.cli.common import Progress, megabytes, print_json, recipe_name, run_command
from mobile_bundle.native import runner_paths
from mobile_bundle.plan.memory import predict_memory


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status (0 done, 1 failed, 2 bad usage)."""
    parser = argparse.ArgumentParser(prog="build-mobile-bundle", description=__doc__)
    parser.add_argument("model", type=Path, help="directory of the checkpoint, as downloaded from Hugging Face")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the bundle to write, NAME.mbundle")
    parser.add_argument(
        "--recipe",
        type=recipe_name,
        help=f"how weights are coded: {', '.join(recipe_names())} (default: see the README)",
    )
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
    parser.add_argument("--version", action="version", version=f"mobile-bundle {mobile_bundle.__version__}")
    options = parser.parse_args(arguments)
    return run_command("build-mobile-bundle", lambda: _build(options))


def _build(options: argparse.Namespace) -> int:
    manifest = build_bundle(
        options.model,
        options.output,
        recipe=options.recipe,
        runners=runner_paths,
        predict=predict_memory,
        progress=Progress("coding weights", "w"),
    )
    if options.json:
        print_json(manifest)
        return 0
    predicted = manifest["predicted"]
    print(
        f"{options.output}: {manifest['model']['name']}, {manifest['recipe']}, {megabytes(manifest['bytes'])}, "
        f"{manifest['bits_per_weight']:.2f} bits per weight"
    )
    print(
        f"predicted at a context of {predicted['context']} tokens: peak memory {megabytes(predicted['peak_bytes'])}, "
        f"of it anonymous {megabytes(predicted['anon_bytes'])}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
