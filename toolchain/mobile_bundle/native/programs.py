"""The programs that the package carries for phones, and which of them this machine runs."""

from __future__ import annotations

import os
from pathlib import Path

from mobile_bundle.errors import InputError, UnsupportedError
from mobile_bundle.native.library import package_file

ABIS = ("arm64-v8a", "armeabi-v7a", "x86_64")
"""Android ABIs that a bundle carries a runner for."""


def runner_paths() -> dict[str, Path]:
    """mobile-run of every ABI."""
    return {abi: package_file("bin", abi, "mobile-run") for abi in ABIS}


def machine_abi() -> str:
    """The Android ABI whose programs this machine runs. Raises UserError when there is none."""
    abi = {"x86_64": "x86_64", "aarch64": "arm64-v8a", "arm64": "arm64-v8a"}.get(os.uname().machine)
    if os.uname().sysname != "Linux" or abi is None:
        raise UnsupportedError(f"there is no mobile-run for {os.uname().sysname} on {os.uname().machine}")
    return abi


def bundle_runner(bundle: Path) -> Path:
    """The bundle's own mobile-run that this machine can run. Raises UserError when there is none."""
    abi = machine_abi()
    runner = bundle / "bin" / abi / "mobile-run"
    if not runner.exists():
        raise InputError(
            f"{bundle}: no bin/{abi}/mobile-run in it: not a bundle, not a whole one, or built without native"
        )
    return runner
