"""Checks that a bundle is whole: the sha256 of every file, the checksum of every tensor, the tokenizer."""

from __future__ import annotations

import argparse
from pathlib import Path

from mobile_bundle.api.bundle import open_bundle
from mobile_bundle.cli.common import print_json
from mobile_bundle.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--json", action="store_true")


def run(options: argparse.Namespace) -> int:
    """Prints what was checked. Raises UserError that names the first file that is damaged."""
    checked = open_bundle(options.bundle).verify()
    if options.json:
        print_json({"bundle": str(options.bundle), "files": checked})
    else:
        print(f"{printable(str(options.bundle))}: whole, {len(checked)} files checked")
    return 0
