"""build-mobile-bundle: from a Hugging Face checkpoint or a GGUF file to a bundle for an Android phone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mobile_bundle.api.build import build
from mobile_bundle.calibrate.calibration import DEVICES, check_device
from mobile_bundle.cli.common import (
    Parser,
    Steps,
    Told,
    byte_size,
    chat_option,
    formats_argument,
    number_from_zero,
    output_path,
    positive,
    positive_number,
    print_json,
    recipe_argument,
    revision_option,
    run_command,
    vocabulary_options,
)
from mobile_bundle.cli.parameters import with_options
from mobile_bundle.container.manifest import read_manifest
from mobile_bundle.errors import ResumableError, UserError, printable
from mobile_bundle.pipeline.default_recipe import TARGETS
from mobile_bundle.pipeline.parts import finished_parts, is_being_written, parts_directory
from mobile_bundle.pipeline.request import DEFAULT_TARGET
from mobile_bundle.planning.recipe import recipe_names
from mobile_bundle.report.text import megabytes
from mobile_bundle.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status (0 done, 1 failed, 2 bad usage)."""
    return run_command("build-mobile-bundle", lambda: _build(_parsed(arguments)))


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="build-mobile-bundle", description=__doc__)
    parser.add_argument(
        "model", help="a checkpoint directory, as downloaded from Hugging Face, a GGUF file, or OWNER/NAME on the hub"
    )
    revision_option(parser)
    vocabulary_options(parser)
    parser.add_argument("-o", "--output", type=output_path, required=True, help="the bundle to write, NAME.mbundle")
    parser.add_argument(
        "--recipe",
        type=recipe_argument,
        help=f"how weights are coded: {', '.join(recipe_names())}, or a recipe file (.yaml). Append +entropy to a "
        "name to entropy-code every tensor that shrinks. Default: the smallest recipe that keeps the quality",
    )
    parser.add_argument(
        "--target",
        choices=TARGETS,
        default=DEFAULT_TARGET,
        help="the class of phone that a recipe found by trying has to fit, by its predicted peak memory: "
        + ", ".join(f"{name} ({megabytes(size)})" for name, size in TARGETS.items()),
    )
    budget = parser.add_argument_group("budget: the planner chooses codec and bits of every tensor")
    budget.add_argument("--max-size", type=byte_size, metavar="SIZE", help="maximum installed size per ABI, e.g. 480MB")
    budget.add_argument("--max-ram", type=byte_size, metavar="SIZE", help="maximum predicted peak memory, e.g. 600MB")
    budget.add_argument(
        "--max-perplexity",
        type=positive_number,
        metavar="P",
        help="maximum predicted perplexity on the calibration text",
    )
    budget.add_argument(
        "--min-speed",
        type=number_from_zero,
        metavar="S",
        help="minimum speed of decoding beside the same model at affine-4bit, which is 1, by the time of each code's "
        "products. Default: 0.5, as far as the other limits allow it; 0: speed does not count",
    )
    parser.add_argument(
        "--calibration",
        nargs="?",
        const=True,
        default=False,
        metavar="FILE",
        help="a text (UTF-8, or .xz) to measure which weights matter; or self: one that the model writes. Default of "
        "FILE, and of budgets without this option: a small English text that ships with the tool, for chat models "
        "together with one that the model writes",
    )
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="cpu",
        help="where calibration computes, and the products of coding that follow from it (default: cpu)",
    )
    parallel = parser.add_mutually_exclusive_group()
    parallel.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="code N tensors at a time, each in its own process (default: one per processor)",
    )
    parallel.add_argument(
        "--cluster",
        metavar="tcp://HOST:PORT",
        help="code tensors on the workers of this Dask scheduler. They must see MODEL and OUTPUT under the same paths",
    )
    parser.add_argument(
        "--formats",
        type=formats_argument,
        default=("native",),
        metavar="LIST",
        help="a comma-separated list of native (mobile-run for every ABI, the default), executorch (model.pte), onnx "
        "(model.onnx)",
    )
    parser.add_argument(
        "--chat-option",
        type=chat_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a keyword argument of the chat template, such as enable_thinking=false. VALUE is JSON, or else a string. "
        "May be repeated",
    )
    parser.add_argument(
        "--system-prompt",
        metavar="TEXT",
        help="a system message that conversations will begin with: the bundle carries its state (system.state), so "
        "that no phone has to read it",
    )
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
    parser.add_argument("--version", action="version", version=f"mobile-bundle {__version__}")
    options = parser.parse_args(arguments)
    try:
        check_device(options.device)
    except UserError as error:
        parser.error(with_options(str(error)))
    return options


def _build(options: argparse.Namespace) -> int:
    try:
        with Told() as told:
            bundle = build(
                options.model,
                options.output,
                recipe=options.recipe,
                target=options.target,
                max_size=options.max_size,
                max_ram=options.max_ram,
                max_perplexity=options.max_perplexity,
                min_speed=options.min_speed,
                calibration=options.calibration,
                formats=options.formats,
                jobs=options.jobs,
                cluster=options.cluster,
                revision=options.revision,
                chat_options=dict(options.chat_option),
                vocabulary_from=options.vocabulary_from,
                languages=options.languages,
                system_prompt=options.system_prompt,
                device=options.device,
                progress=Steps(),
            )
    except UserError as error:
        raise UserError(f"{error}{_what_is_kept(options.output, isinstance(error, ResumableError))}") from error
    except KeyboardInterrupt:
        raise UserError(f"interrupted{_what_is_kept(options.output, True)}") from None
    manifest = bundle.manifest
    for note in manifest.notes:
        if note not in told.lines:
            print(f"note: {note}", file=sys.stderr)
    if options.json:
        print_json(read_manifest(bundle.path))
        return 0
    print(
        f"{printable(str(options.output))}: {manifest.model.name}, {manifest.recipe}, "
        f"{megabytes(manifest.bytes)}, {manifest.bits_per_weight:.2f} bits per weight"
    )
    predicted = manifest.predicted
    print(
        f"predicted at a context of {predicted.context} tokens: peak memory {megabytes(predicted.peak_bytes)}, "
        f"of which {megabytes(predicted.anon_bytes)} anonymous"
    )
    return 0


def _what_is_kept(output: Path, resumable: bool) -> str:
    """The end of an error message: where the finished tensors are; nothing if there are none. resumable: whether the
    same command can succeed later."""
    directory = parts_directory(output)
    count = len(finished_parts(directory))
    if not count or is_being_written(directory):  # by another build, which needs them
        return ""
    if resumable:
        return f"; {count} finished tensors are kept in {directory}: the same command continues from there"
    return f"; {count} finished tensors are kept in {directory}, which may be deleted"


if __name__ == "__main__":
    sys.exit(main())
