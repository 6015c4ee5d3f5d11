"""mobile-bundle: inspects, verifies, measures and runs bundles."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mobile_bundle.cli import (
    bench,
    device_test,
    estimate,
    evaluate,
    heal,
    inspect,
    lab,
    models,
    pack,
    report,
    run,
    verify,
)
from mobile_bundle.cli.common import Parser, run_command
from mobile_bundle.version import __version__

COMMANDS = {
    "inspect": inspect,
    "verify": verify,
    "eval": evaluate,
    "report": report,
    "estimate": estimate,
    "models": models,
    "heal": heal,
    "run": run,
    "bench": bench,
    "pack": pack,
    "device-test": device_test,
    "lab": lab,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status (0 done, 1 failed, 2 bad usage)."""
    return run_command("mobile-bundle", lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    parser = Parser(prog="mobile-bundle", description=__doc__)
    parser.add_argument("--version", action="version", version=f"mobile-bundle {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        text = " ".join((module.__doc__ or "").split())
        command = commands.add_parser(name, help=text.split(". ")[0].rstrip(".") + ".", description=text)
        module.add_arguments(command)
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "run":
        parser.error(f"unknown argument: {rest[0]}")
    options.rest = rest
    status: int = COMMANDS[options.command].run(options)
    return status


if __name__ == "__main__":
    sys.exit(main())
