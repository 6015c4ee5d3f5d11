"""The programs for phones that the package carries, and which of them this machine can run."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from mobile_bundle.errors import InputError, UnsupportedError
from mobile_bundle.native.library import find_package_file, package_file

ABIS = ("arm64-v8a", "armeabi-v7a", "x86_64")
"""Android ABIs that a bundle carries a runner for."""


def runner_paths() -> dict[str, Path]:
    """mobile-run by ABI: of all ABIS, or of this machine's alone where the package was installed by `make dev`.
    Raises UserError when there is none."""
    package_file("bin")  # or say what to do
    found = {abi: find_package_file("bin", abi, "mobile-run") for abi in ABIS}
    return {abi: path for abi, path in found.items() if path}


def missing_runners(abis: Collection[str]) -> list[str]:
    """The note of a bundle that has runners for these ABIs, where they are not all of ABIS."""
    missing = [abi for abi in ABIS if abi not in abis]
    if not missing:
        return []
    built_for, lacking = ", ".join(abis), ", ".join(missing)
    return [f"no runner for {lacking} in the bundle: this installation of mobile-bundle was built for {built_for} only"]


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
            f"{bundle} has no bin/{abi}/mobile-run: it is not a bundle, incomplete, or built without `formats` native"
        )
    return runner
