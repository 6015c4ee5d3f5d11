"""What a lab needs of the machine: root, namespaces, a memory cgroup, and programs.

Debian's apt installs the programs that are missing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mobile_bundle.errors import DeviceError, InstallationError, UserError
from mobile_bundle.lab.cgroup import memory_hierarchy


def obstacle(native: bool) -> str | None:
    """Why this machine can have no lab, whatever is installed on it; None: it can. native: the native one."""
    if not hasattr(os, "geteuid") or sys.platform != "linux" or os.geteuid() != 0:
        return "the lab needs root on Linux, for namespaces, mounts and a memory cgroup: run it with sudo"
    if _distribution() != "debian":
        return "the lab takes its system from Debian's archive through this machine's apt, and this is not Debian"
    kinds = ["--mount", *(["--pid", "--uts", "--ipc", "--net", "--fork"] if native else [])]
    if shutil.which("unshare") and subprocess.run(["unshare", *kinds, "true"], capture_output=True).returncode:
        return "the lab needs namespaces, which this machine does not allow even for root (is it a container?)"
    if native:
        try:
            hierarchy = memory_hierarchy()
        except UserError as error:
            return str(error)
        if not os.access(hierarchy.path, os.W_OK):
            return f"the native lab needs a memory cgroup, and {hierarchy.path} cannot be written"
    return None


def _distribution() -> str:
    """ID of /etc/os-release, "" where there is none."""
    try:
        return platform.freedesktop_os_release().get("ID", "")
    except OSError:
        return ""


def need_programs(packages: Mapping[str, str]) -> None:
    """Sees that every program is there, installing its Debian package where it is not. packages: program to package.

    Raises UserError when it cannot be installed."""
    missing = sorted({package for program, package in packages.items() if not shutil.which(program)})
    if not missing:
        return
    names = " ".join(missing)
    if not shutil.which("apt-get"):
        raise InstallationError(f"the lab needs {names} (Debian's names)", "install them")
    print(f"lab: installing {names}", file=sys.stderr, flush=True)
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run([*apt, "update"], f"apt-get update failed, and the lab needs {names}", environment)
    install = [*apt, "install", "-y", "--no-install-recommends", *missing]
    run(install, f"{names} cannot be installed, which the lab needs", environment)


def run(
    command: list[str], failure: str, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> str:
    """Runs a program and returns what it wrote to standard output. UserError: `failure` and its last line of error."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, cwd=folder
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise DeviceError(f"{failure}: {lines[-1] if lines else f'{command[0]} gave {done.returncode}'}")
    return done.stdout
