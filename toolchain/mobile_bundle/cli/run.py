"""Generates text with the bundle's own mobile-run on this machine; takes its options (--prompt TEXT, --json, ...)."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mobile_bundle.native import bundle_runner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; everything else goes to mobile-run generate."""
    parser.add_argument("bundle", type=Path)


def run(options: argparse.Namespace) -> int:
    """Becomes mobile-run, so that standard input, signals and the exit status are its own."""
    runner = bundle_runner(options.bundle)
    sys.stdout.flush()
    os.execv(runner, [str(runner), "generate", str(options.bundle), *options.rest])
