"""Measures whether a bundle fits a device and how it runs there (memory, load time, speed) and gives a verdict.

The device is a phone or an emulator that adb reaches, or a stand-in device (--lab), whose speed is not a phone's."""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mobile_bundle import lab
from mobile_bundle.cli.common import Progress, byte_size, output_path, positive, positive_number
from mobile_bundle.cli.parameters import with_options
from mobile_bundle.device.measuring.cells import NAMES, Settings
from mobile_bundle.device.measuring.program import MeasuredProgram
from mobile_bundle.device.report.baseline import read_baseline
from mobile_bundle.device.report.page import device_page
from mobile_bundle.device.report.results import Report
from mobile_bundle.device.report.table import report_lines
from mobile_bundle.device.report.verdict import Budgets
from mobile_bundle.device.session import Asked, Save, device_test
from mobile_bundle.device.transport.adb import Device
from mobile_bundle.device.transport.client import choose_serial
from mobile_bundle.device.transport.places import DEFAULT_WORK
from mobile_bundle.errors import ArgumentError, UserError, printable
from mobile_bundle.files.output_file import OutputFile
from mobile_bundle.native.engine import KV_TYPES
from mobile_bundle.runtimes import RUNTIMES


def cells_argument(text: str) -> tuple[str, ...]:
    """An argparse type: a comma-separated list of cells."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in NAMES:
            raise argparse.ArgumentTypeError(f"{name!r}: must be a comma-separated list of {', '.join(NAMES)}")
    return names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("bundle", type=Path)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--serial", help="the device, as `adb devices` prints it (default: the only one)")
    where.add_argument(
        "--lab", choices=lab.LAB_NAMES, help="use a stand-in device, which this command starts and stops; needs root"
    )
    parser.add_argument(
        "--work", type=_work_folder, default=DEFAULT_WORK, help=f"folder on the device (default {DEFAULT_WORK})"
    )
    parser.add_argument("--runtime", choices=(*RUNTIMES, "all"), default="native")
    parser.add_argument(
        "--cells",
        type=cells_argument,
        default=NAMES,
        help=f"a comma-separated list of tests to run (default: {','.join(NAMES)})",
    )
    parser.add_argument("--reps", type=positive, default=5, help="processes per repeated cell (default 5)")
    parser.add_argument("-p", "--prompt-tokens", type=positive, default=512, help="tokens of prefill (default 512)")
    parser.add_argument("-n", "--new-tokens", type=positive, default=128, help="tokens of decode (default 128)")
    parser.add_argument("--threads", type=positive, default=0)
    parser.add_argument("--kv", choices=KV_TYPES, default="int8", help="type of the KV cache (native runner)")
    parser.add_argument(
        "--context", type=positive, default=0, help="tokens of the long context (default: the bundle's)"
    )
    parser.add_argument(
        "--pressure",
        type=byte_size,
        metavar="SIZE",
        help="memory that the second process takes (default: so much that half of the device's memory is taken)",
    )
    parser.add_argument(
        "--soak",
        type=positive_number,
        default=0,
        metavar="SECONDS",
        help="keep decoding for about SECONDS (default: no soak)",
    )
    parser.add_argument(
        "--timeout", type=positive_number, default=600, metavar="SECONDS", help="time limit of one run (default 600)"
    )
    parser.add_argument("--force", action="store_true", help="run even if the bundle is predicted not to fit")
    budgets = parser.add_argument_group("budgets", "the command ends with status 1 if one is not met")
    budgets.add_argument("--max-anon", type=byte_size, metavar="SIZE", help="maximum anonymous and swapped memory")
    budgets.add_argument("--max-peak", type=byte_size, metavar="SIZE", help="maximum resident memory, files included")
    budgets.add_argument(
        "--min-decode", type=positive_number, metavar="RATE", help="minimum decode speed, tokens per second"
    )
    budgets.add_argument("--max-load", type=positive_number, metavar="SECONDS", help="maximum load time, cold and warm")
    parser.add_argument(
        "--baseline", type=Path, metavar="JSON", help="compare with an earlier report; fail on any regression"
    )
    parser.add_argument(
        "--save-baseline", type=output_path, metavar="JSON", help="where to save this report for a later --baseline"
    )
    parser.add_argument("--json", type=output_path, help="where to write the report; it is updated after every run")
    parser.add_argument("--html", type=output_path, help="where to write the report as one self-contained HTML page")


def _work_folder(text: str) -> str:
    """An argparse type: a folder on the device that shells, adb and sha256sum's output take as it is."""
    if not re.fullmatch(r"(/[A-Za-z0-9_.+=@ -]+)+", text) or ".." in text.split("/"):
        raise argparse.ArgumentTypeError(
            f"{text!r}: must be an absolute path of letters, digits and _.+=@-, such as {DEFAULT_WORK}"
        )
    return text


def run(options: argparse.Namespace) -> int:
    """Tests, writes the reports and prints the table; 1 where the verdict is missed."""
    return run_test(options, ())


def run_test(options: argparse.Namespace, peers: Sequence[MeasuredProgram]) -> int:
    """`run` with others' programs measured beside the bundle's (benchmarks/device)."""
    if options.kv != "int8" and options.runtime != "native":
        raise ArgumentError("--kv needs --runtime native: the caches of the other runtimes are int8")
    baseline = read_baseline(options.baseline) if options.baseline else None
    data, page, kept = (
        OutputFile(path) if path else None for path in (options.json, options.html, options.save_baseline)
    )
    outputs = [output.path for output in (data, page, kept) if output]
    if len(set(outputs)) < len(outputs):
        raise ArgumentError(f"{outputs[-1]} is given twice: --json, --html and --save-baseline must be different files")
    with _device(options) as (device, label):
        report = device_test(
            _asked(options, label, peers, baseline), device, _saver(data, page), _say, Progress("pushing", "B")
        )
    for line in report_lines(report):
        print(with_options(line))
    written = [str(path) for path in (options.json, options.html) if path is not None]
    if written:
        print(f"{' and '.join(written)} {'is' if len(written) == 1 else 'are'} written")
    if report.error is not None:
        where = f" (the results so far are in {written[0]})" if written else ""
        raise UserError(f"{report.error}{where}")
    if kept is not None:
        kept.write_text(report.to_json())
    return 0 if report.passed else 1


@contextlib.contextmanager
def _device(options: argparse.Namespace) -> Iterator[tuple[Device, str]]:
    """The device and, of a stand-in, its label."""
    if options.lab is None:
        yield Device(options.serial or choose_serial()), ""
        return
    with lab.start(options.lab) as stand_in:
        yield Device(stand_in.serial), stand_in.label


def _asked(
    options: argparse.Namespace, label: str, peers: Sequence[MeasuredProgram], baseline: dict[str, Any] | None
) -> Asked:
    return Asked(
        bundle=options.bundle,
        runtimes=RUNTIMES if options.runtime == "all" else (options.runtime,),
        required=options.runtime != "all",
        settings=Settings(
            cells=options.cells,
            reps=options.reps,
            prompt_tokens=options.prompt_tokens,
            new_tokens=options.new_tokens,
            context=options.context,
            threads=options.threads,
            kv=options.kv,
            pressure_bytes=options.pressure,
            soak_seconds=options.soak,
            timeout=options.timeout,
        ),
        budgets=Budgets(options.max_anon, options.max_peak, options.min_decode, options.max_load),
        baseline=baseline,
        force=options.force,
        work=options.work.rstrip("/"),
        label=label,
        command=printable(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        peers=tuple(peers),
    )


def _saver(data: OutputFile | None, page: OutputFile | None) -> Save:
    """Writes both files, each whole or not at all."""

    def save(report: Report) -> None:
        if data is not None:
            data.write_text(report.to_json())
        if page is not None:
            page.write_text(device_page(report))

    return save


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
