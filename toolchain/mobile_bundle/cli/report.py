"""Compares bundles of one model on an HTML page, with a JSON: size, error, perplexity, memory, the Pareto front."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from mobile_bundle.cli.common import Progress, Steps, output_path, positive, revision_option
from mobile_bundle.errors import ArgumentError, OutputError, printable
from mobile_bundle.files.output_file import OutputFile
from mobile_bundle.models.hub import local_model
from mobile_bundle.native.engine import KV_TYPES
from mobile_bundle.pipeline.request import Listener
from mobile_bundle.report.collect import Asked, collect_report
from mobile_bundle.report.page import report_page
from mobile_bundle.report.schema import BundleReport, Report, read_report
from mobile_bundle.report.text import kl_text, megabytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; those of the protocol are `eval`'s."""
    parser.add_argument("bundles", type=Path, nargs="+", metavar="bundle", help="NAME.mbundle, all of one model")
    parser.add_argument(
        "--against",
        required=True,
        metavar="MODEL",
        help="the checkpoint directory, GGUF file or OWNER/NAME on the hub that they were built from",
    )
    revision_option(parser)
    parser.add_argument(
        "--text", type=Path, required=True, help="UTF-8, or .xz; a line containing only U+001E separates documents"
    )
    parser.add_argument("--context", type=positive, default=512, help="tokens per window (default 512)")
    parser.add_argument("--windows", type=positive, default=0, help="number of windows (default: the whole text)")
    parser.add_argument("--kv", choices=KV_TYPES, default="int8", help="type of the KV cache (default int8)")
    parser.add_argument("--threads", type=positive, default=0)
    parser.add_argument(
        "--points",
        type=Path,
        help='JSON: [{"name", "bytes", "perplexity"}, ...] to show in the plot beside the bundles',
    )
    parser.add_argument(
        "--reuse",
        type=Path,
        metavar="JSON",
        help="JSON of an earlier or interrupted report: reuse its measurements where bundle and text are unchanged",
    )
    parser.add_argument(
        "-o", "--output", type=output_path, default=Path("report.html"), help="the page to write (default report.html)"
    )
    parser.add_argument("--json", type=output_path, help="the JSON to write (default: beside the page, NAME.json)")


def run(options: argparse.Namespace) -> int:
    """Measures, writes both files and prints a table. The JSON is there, whole, from the first figure on."""
    against = local_model(options.against, options.revision, Listener(Steps()).stage("downloading the original"))
    page = OutputFile(options.output)
    data = OutputFile(options.json or options.output.with_suffix(".json"))
    _check_outputs(page, data, options, against)
    asked = Asked(
        bundles=options.bundles,
        against=against,
        text=options.text,
        context=options.context,
        windows=options.windows,
        kv=options.kv,
        threads=options.threads,
        points=options.points,
        command=_command(options),
    )
    earlier = read_report(options.reuse) if options.reuse else None
    report = collect_report(asked, Progress, earlier, save=lambda so_far: data.write_text(so_far.to_json()))
    data.write_text(report.to_json())
    page.write_text(report_page(report))
    _print(report)
    print(f"{page.path} and {data.path} are written")
    return 0


def _check_outputs(page: OutputFile, data: OutputFile, options: argparse.Namespace, against: Path) -> None:
    """Before anything is measured: they are two files, and none of what is read."""
    if page.path == data.path:
        raise ArgumentError(
            f"the page and its JSON cannot be the same file {page.path}", "give another name with -o or --json"
        )
    inputs = [options.text, options.points, against, *options.bundles]
    read = {Path(os.path.realpath(path)) for path in inputs if path is not None}
    for path in (page.path, data.path):
        if path in read or (path.exists() and not read.isdisjoint(path.parents)):
            raise OutputError(f"{path} is an input of this report and would be overwritten", "give another name")


def _command(options: argparse.Namespace) -> str:
    """The command that measures the same again."""
    words = ["mobile-bundle", "report", *map(str, options.bundles)]
    words += ["--against", str(options.against), "--text", str(options.text), "--context", str(options.context)]
    words += ["--revision", options.revision] if options.revision else []
    words += ["--windows", str(options.windows)] if options.windows else []
    words += ["--kv", options.kv] if options.kv != "int8" else []
    words += ["--points", str(options.points)] if options.points else []
    return printable(shlex.join(words))


def _print(report: Report) -> None:
    original = report.original
    width = max(len(bundle.name) for bundle in report.bundles)
    heads = f"{'size':>10} {'bits/w':>7} {'error':>9} {'perplexity':>11} {'':>8} {'KL':>8}  Pareto front"
    print(f"{'bundle':<{width}} {heads}")
    for bundle in report.bundles:
        print(
            f"{bundle.name:<{width}} {megabytes(bundle.model_bytes):>10} {bundle.bits_per_weight['all']:>7.3f} "
            f"{bundle.relative_error['all']:>9.2e} {_perplexity(bundle, original.perplexity)} "
            f"{kl_text(bundle.closeness):>8}  "
            f"{'yes' if bundle.pareto else ''}".rstrip()
        )
    if original.perplexity is not None:
        print(f"{original.name} itself: perplexity {original.perplexity:.3f}")


def _perplexity(bundle: BundleReport, original: float | None) -> str:
    if bundle.perplexity is None:
        return f"{'not finite':>11} {'':>8}"
    change = f"{100 * (bundle.perplexity / original - 1):+.2f} %" if original else ""
    return f"{bundle.perplexity:>11.3f} {change:>8}"
