"""Programs for arm64 Linux: the packages of other runtimes for it, a cross build, and QEMU to run them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.paths import ROOT

SYSROOT = Path("/usr/aarch64-linux-gnu")


def package(requirement: str, directory: Path) -> Path:
    """The arm64 wheel of a package, unpacked into `directory`; without what it depends on."""
    uv = shutil.which("uv")
    if not uv:
        pytest.fail("uv is missing: run the tests by `make test`")
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--no-deps", "--target", directory, "--python-version", "3.11",
         "--python-platform", "aarch64-manylinux_2_28", requirement],
        check=True,
    )  # fmt: skip
    return directory


def build(directory: Path, target: str, *definitions: str) -> Path:
    """Cross-builds a target of runtime/ in `directory`, which is returned."""
    if not shutil.which("aarch64-linux-gnu-g++"):
        pytest.fail("aarch64-linux-gnu-g++ is missing: install g++-aarch64-linux-gnu")
    toolchain = ROOT / "runtime/cmake/aarch64-linux-gnu.cmake"
    subprocess.run(
        ["cmake", "-S", ROOT / "runtime", "-B", directory, "-G", "Ninja", "-DMB_WERROR=ON",
         f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", *definitions],
        check=True, capture_output=True,
    )  # fmt: skip
    process = subprocess.run(["cmake", "--build", directory, "--target", target], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return directory


def command(program: Path, libraries: list[Path], cpu: str = "cortex-a53", sysroot: Path = SYSROOT) -> list[str]:
    """What to start to run an arm64 program under QEMU, with folders of shared libraries."""
    if not shutil.which("qemu-aarch64-static"):
        pytest.fail("qemu-aarch64-static is missing: install qemu-user-static")
    path = os.pathsep.join(str(folder) for folder in [*libraries, SYSROOT / "lib"])
    return ["qemu-aarch64-static", "-cpu", cpu, "-L", str(sysroot), "-E", f"LD_LIBRARY_PATH={path}", str(program)]
