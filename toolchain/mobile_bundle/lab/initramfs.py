"""What the virtual machine boots: Debian's kernel, and its root folder as an initramfs."""

from __future__ import annotations

import lzma
import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

from mobile_bundle.errors import DeviceError
from mobile_bundle.lab.debian import Archive
from mobile_bundle.lab.system import FILES, make_root, unpack

_MODULES = (
    "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "failover", "net_failover", "virtio_net",
    "virtio_blk",
)  # fmt: skip
"""Drivers of network and disk, each after those that it needs; the kernel has some built in, and ext4."""


def _entry(out: BinaryIO, number: int, name: str, mode: int, data: bytes) -> None:
    """One file of a cpio archive in the kernel's format ("newc"): a header in hexadecimal, name and data, each padded
    to four bytes."""
    path = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    out.write(b"070701" + b"".join(b"%08x" % field for field in fields) + path)
    out.write(b"\0" * (-(110 + len(path)) % 4) + data + b"\0" * (-len(data) % 4))


def write_initramfs(root: Path, target: Path) -> None:
    """Writes a folder as an initramfs, all files root's. Not compressed: an emulated processor unpacks slowly."""
    with target.open("wb") as out:
        paths = sorted(root.rglob("*"))
        for number, path in enumerate(paths, 1):
            mode = path.lstat().st_mode
            data = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
            _entry(out, number, str(path.relative_to(root)), mode, data)
        # The console must be there before anything is mounted.
        name = b"dev/console\0"
        fields = (len(paths) + 1, stat.S_IFCHR | 0o600, 0, 0, 1, 0, 0, 0, 0, 5, 1, len(name), 0)
        out.write(b"070701" + b"".join(b"%08x" % field for field in fields) + name + b"\0" * (-(110 + len(name)) % 4))
        _entry(out, 0, "TRAILER!!!", 0, b"")


def make_machine_system(folder: Path) -> None:
    """Fills `folder` with `kernel` and `initramfs` of an arm64 machine."""
    archive = Archive(folder / "apt", "arm64")
    root, kernel = folder / "root", folder / "package"
    make_root(root, archive)
    unpack([archive.kernel("linux-image-cloud-arm64")], kernel)
    (root / "modules").mkdir()
    order = []
    for name in _MODULES:
        for packed in kernel.rglob(f"{name}.ko.xz"):
            (root / "modules" / f"{name}.ko").write_bytes(lzma.decompress(packed.read_bytes()))
            order.append(name)
    if "virtio_blk" not in order:
        raise DeviceError("Debian's arm64 kernel has its modules where the lab does not look for them")
    (root / "modules/order").write_text("\n".join(order) + "\n")
    shutil.copy(FILES / "machine_init.sh", root / "init")
    (root / "init").chmod(0o755)
    write_initramfs(root, folder / "initramfs")
    shutil.copy(next(kernel.glob("boot/vmlinuz-*")), folder / "kernel")
    for path in (folder / "apt", root, kernel):
        shutil.rmtree(path)
