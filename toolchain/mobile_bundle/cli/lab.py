"""Starts a stand-in device for adb on this machine and keeps it until Ctrl-C; needs root, but no Android SDK."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from mobile_bundle import lab
from mobile_bundle.cli.common import byte_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "name",
        choices=lab.LAB_NAMES,
        help="native runs at this machine's speed; arm64 emulates a baseline ARMv8.0 core, arm64-dotprod one with "
        "dot-product instructions",
    )
    parser.add_argument("--memory", type=byte_size, default=2 << 30, metavar="SIZE", help="its memory (default 2GiB)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder whose contents appear in /data/local/tmp")


def run(options: argparse.Namespace) -> int:
    """Says where the device is and waits for Ctrl-C."""
    try:
        with lab.start(options.name, memory_bytes=options.memory, data_dir=options.data) as device:
            print(f"{device.serial}  {device.label}")
            print(f"  adb -s {device.serial} shell")
            print(f"  mobile-bundle device-test BUNDLE --serial {device.serial}")
            print("Press Ctrl-C to stop it.", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print()
    return 0
