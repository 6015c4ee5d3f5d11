"""Generates text with a bundle's runner on this machine; takes mobile-run's options (--prompt TEXT, --json, ...)."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mobile_bundle.runtimes import RUNTIMES, bundle_argument, runner_command, runner_environment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; everything else goes to the runner's generate."""
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runtime", choices=RUNTIMES, default="native")


def run(options: argparse.Namespace) -> int:
    """Becomes the runner, so that standard input, signals and the exit status are its own."""
    command = runner_command(options.bundle, options.runtime)
    environment = runner_environment(options.runtime)
    sys.stdout.flush()
    os.execve(command[0], [*command, "generate", bundle_argument(options.bundle), *options.rest], environment)
