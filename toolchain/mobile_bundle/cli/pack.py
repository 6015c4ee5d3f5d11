"""Packs a bundle for download: NAME.mbundle.zip, which the Android app imports and any ZIP tool opens.

The weights are entropy-coded where that makes the download smaller. A phone decodes them once, when it installs the
bundle, and then stores both forms. --no-entropy keeps them as they are in the bundle. Runners are left out, because the
app brings its own."""

from __future__ import annotations

import argparse
from pathlib import Path

from mobile_bundle.cli.common import Progress, output_path, print_json
from mobile_bundle.errors import ArgumentError, printable
from mobile_bundle.native.programs import ABIS
from mobile_bundle.pack import pack_bundle
from mobile_bundle.pack.pack import SUFFIX
from mobile_bundle.report.text import megabytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-o", "--output", type=output_path, required=True, help=f"the file to write, NAME{SUFFIX}")
    parser.add_argument(
        "--abi", choices=ABIS, action="append", default=[], help="include mobile-run for this ABI; may be repeated"
    )
    parser.add_argument("--no-entropy", action="store_true", help="keep the weights as they are in the bundle")
    parser.add_argument("--json", action="store_true")


def run(options: argparse.Namespace) -> int:
    """Prints what was written. UserError for a bundle that is not whole."""
    if not options.output.name.endswith(SUFFIX):
        raise ArgumentError(f"{options.output}: the name of a packed bundle must end in {SUFFIX}")
    packed = pack_bundle(
        options.bundle,
        options.output,
        abis=options.abi,
        entropy=not options.no_entropy,
        progress=Progress("coding weights", "B"),
    )
    if options.json:
        entries = [
            {"name": name, "bytes": size, "packed_bytes": packed_size, "stored": stored}
            for name, size, packed_size, stored in packed.entries
        ]
        facts = {"bytes": packed.bytes, "recipe": packed.manifest["recipe"], "entries": entries, "note": packed.note}
        print_json({"output": str(options.output), **facts})
        return 0
    for name, size, packed_size, stored in packed.entries:
        print(f"  {name:<32} {megabytes(size):>12} {'stored' if stored else megabytes(packed_size):>12}")
    why = f" (weights unchanged: {packed.note})" if packed.note else ""
    print(f"{printable(str(options.output))}: {packed.manifest['recipe']}, {megabytes(packed.bytes)}{why}")
    return 0
