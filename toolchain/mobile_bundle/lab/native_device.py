"""The native device: adbd and what it starts in namespaces of their own, with a memory cgroup as their memory."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mobile_bundle.errors import DeviceError
from mobile_bundle.lab.cgroup import Cgroup
from mobile_bundle.lab.device import FIRST_PORT, LAST_PORT, Specification
from mobile_bundle.lab.proc_files import meminfo, vmstat
from mobile_bundle.lab.process import start_bound
from mobile_bundle.lab.system import FILES

PROGRAMS = {
    "adb": "adb", "unshare": "util-linux", "mount": "mount", "dpkg-deb": "dpkg", "cc": "gcc"
}  # fmt: skip
"""Programs that it needs and their Debian packages."""


def _listen() -> socket.socket:
    """A socket that listens on the first free port of 127.0.0.1; having it, no one else can."""
    for port in range(FIRST_PORT, LAST_PORT + 1):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen()
            return listener
        except OSError:
            listener.close()
    raise DeviceError(f"no port from {FIRST_PORT} to {LAST_PORT} is free on 127.0.0.1")


def _fill(folder: Path, source: Path) -> None:
    """Copies a folder's contents and drops them from the page cache, so that the device pays for what it reads."""
    shutil.copytree(source, folder, dirs_exist_ok=True, symlinks=True)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class NativeDevice:
    """Device, at the speed of this machine."""

    def __init__(self, specification: Specification) -> None:
        self._run = specification.run
        self._specification = specification
        self._cgroup: Cgroup | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self, pause: Callable[[float], bool]) -> None:
        for name in ("root", "data/local/tmp"):
            (self._run / name).mkdir(parents=True)
        if self._specification.data_dir:
            _fill(self._run / "data/local/tmp", self._specification.data_dir)
        # Named as its folder, so that a later lab can remove what a killed supervisor left.
        self._cgroup = Cgroup(self._run.name, self._specification.memory_bytes)
        self.tick()
        pressure = self._cgroup.pressure_file()
        system = self._specification.system
        command = [
            "unshare", "--mount", "--propagation", "private", "--pid", "--uts", "--ipc", "--net", "--fork",
            "--kill-child=KILL", "sh", str(FILES / "native_init.sh"), str(system / "root"), str(self._run),
            f"lab-{self._specification.name}", *([str(pressure)] if pressure else []),
        ]  # fmt: skip
        with _listen() as listener:
            self.port = listener.getsockname()[1]
            environment = {"PATH": os.environ.get("PATH", os.defpath)}
            self._process = start_bound(command, self.log(), listener.fileno(), environment, self._cgroup.join)

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def tick(self) -> None:
        """Writes what stands for /proc/meminfo and /proc/vmstat: at most a fifth of a second old."""
        assert self._cgroup
        state = self._cgroup.memory()
        for name, text in (("meminfo", meminfo(state)), ("vmstat", vmstat(state))):
            file = os.open(self._run / name, os.O_WRONLY | os.O_CREAT, 0o444)
            os.pwrite(file, text.encode(), 0)
            os.close(file)

    def kill_adbd(self) -> None:
        assert self._cgroup
        for process in self._cgroup.processes():
            with suppress(OSError):
                if Path(f"/proc/{process}/comm").read_text() == "adbd\n":
                    descriptor = os.pidfd_open(process)
                    os.kill(process, signal.SIGKILL)
                    select.select([descriptor], [], [], 10)
                    os.close(descriptor)

    def kill(self) -> None:
        if self._process:
            # unshare's child, process 1 of the device, dies with it, and with that one everything in its namespace.
            self._process.kill()
            self._process.wait()
        end = time.monotonic() + 10
        while self._cgroup and self._cgroup.processes() and time.monotonic() < end:
            time.sleep(0.01)

    def close(self) -> None:
        if self._cgroup and self._cgroup.path.exists():
            self.kill()
            self._cgroup.remove()

    def log(self) -> Path:
        return self._run / "device.log"
