"""The arm64 devices: a virtual machine of QEMU's, every instruction emulated."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from mobile_bundle.errors import DeviceError
from mobile_bundle.lab.device import FIRST_PORT, LAST_PORT, Specification
from mobile_bundle.lab.process import last_line, start_bound
from mobile_bundle.lab.requirements import run

PROGRAMS = {
    "adb": "adb", "qemu-system-aarch64": "qemu-system-arm", "mke2fs": "e2fsprogs", "unshare": "util-linux",
    "mount": "mount", "dpkg-deb": "dpkg",
}  # fmt: skip
"""Programs that it needs and their Debian packages."""

_FREE = 4 << 30
"""Bytes of the disk beside what it is filled with; the image is sparse."""

_FILL = 'mount --bind "$1" "$2/local/tmp" && exec mke2fs -q -t ext4 -O ^has_journal -d "$2" "$3" "$4k"'
"""Makes the disk of a folder seen through a mount of its own, which spares a copy."""


def _make_disk(image: Path, stage: Path, source: Path | None) -> None:
    """A sparse ext4 image whose local/tmp holds what `source` does."""
    (stage / "local/tmp").mkdir(parents=True)
    size = _FREE + (sum(path.lstat().st_size for path in source.rglob("*")) * 21 // 20 if source else 0)
    image.touch()
    run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", _FILL, "sh", str(source or stage / "local/tmp"),
         str(stage), str(image), str(size // 1024)],
        "the disk of the virtual machine cannot be made",
    )  # fmt: skip


class VirtualMachine:
    """Device, emulated."""

    def __init__(self, specification: Specification) -> None:
        self._specification = specification
        self._run = specification.run
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self, pause: Callable[[float], bool]) -> None:
        disk = self._run / "data.img"
        _make_disk(disk, self._run / "stage", self._specification.data_dir)
        # QEMU takes a port by its number alone, so another program may have it by then: the next one is tried.
        for self.port in range(FIRST_PORT, LAST_PORT + 1):
            self._process = self._launch(disk)
            while "lab: adbd runs" not in self.log().read_text(errors="replace"):
                if not pause(0.1):
                    break
            else:
                return
            if "hostfwd" not in last_line(self.log()) and "forwarding" not in last_line(self.log()):
                raise DeviceError(f"the virtual machine did not start: {last_line(self.log())}")
        raise DeviceError(f"no port from {FIRST_PORT} to {LAST_PORT} is free on 127.0.0.1")

    def _launch(self, disk: Path) -> subprocess.Popen[bytes]:
        given = self._specification
        command = [
            "qemu-system-aarch64", "-M", "virt", "-cpu", given.processor, "-smp", "2",
            "-m", f"{given.memory_bytes >> 20}M", "-accel", "tcg,thread=multi,tb-size=256",
            "-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot",
            "-kernel", str(given.system / "kernel"), "-initrd", str(given.system / "initramfs"),
            "-append", f"console=ttyAMA0 quiet loglevel=4 rdinit=/init panic=-1 lab_name=lab-{given.name}",
            "-drive", f"file={disk},if=none,id=disk,format=raw,cache=unsafe", "-device", "virtio-blk-pci,drive=disk",
            # restrict: the machine reaches nothing outside; romfile: it does not boot from the network.
            "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:5555",
            "-device", "virtio-net-pci,netdev=net,romfile=",
        ]  # fmt: skip
        return start_bound(command, self.log(), subprocess.PIPE)

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def tick(self) -> None:
        """Its kernel does all by itself."""

    def kill_adbd(self) -> None:
        assert self._process
        assert self._process.stdin
        self._process.stdin.write(b"kill-adbd\n")
        self._process.stdin.flush()
        end = time.monotonic() + 30
        while "lab: adbd is dead" not in self.log().read_text(errors="replace") and time.monotonic() < end:
            time.sleep(0.05)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        self.kill()

    def log(self) -> Path:
        return self._run / "console.log"
