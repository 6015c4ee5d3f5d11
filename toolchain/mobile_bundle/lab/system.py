"""The root folder of a lab device: a real adbd with its libraries, and busybox for everything else."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from mobile_bundle.lab.debian import Archive
from mobile_bundle.lab.requirements import run

FILES = Path(__file__).parent / "files"

_UNUSED = ("usr/share", "usr/lib/systemd", "usr/lib/modules-load.d", "usr/lib/*/gconv", "usr/lib/*/audit", "etc/init.d")
_EMPTY = ("proc", "sys", "dev", "mnt", "etc", "system/bin", "sdcard", "data/local/tmp")


def unpack(packages: Iterable[Path], root: Path) -> None:
    """Unpacks .deb files over one another; nothing of them is run."""
    for package in packages:
        run(["dpkg-deb", "-x", str(package), str(root)], f"{package.name} cannot be unpacked")


def make_root(root: Path, archive: Archive) -> None:
    """Fills `root` with what adbd and a shell need, some 15 MB. busybox's links to itself are still missing."""
    root.mkdir()
    unpack(archive.with_dependencies("adbd", "busybox-static"), root)
    for pattern in _UNUSED:
        for path in root.glob(pattern):
            shutil.rmtree(path)
    for name in _EMPTY:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        # Debian's packages put everything below /usr; the links there belong to no package.
        (root / "usr" / name).mkdir(exist_ok=True)
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    for loader in root.glob("usr/lib/*/ld-linux-*.so.*"):
        for folder in ("lib", "lib64"):
            link = root / "usr" / folder / loader.name
            if not link.exists() and not link.is_symlink():
                link.symlink_to(f"../lib/{loader.parent.name}/{loader.name}")
    (root / "tmp").symlink_to("data/local/tmp")
    (root / "etc/passwd").write_text("root:x:0:0:root:/data/local/tmp:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "etc/shells").write_text("/bin/sh\n")


def make_native_system(folder: Path) -> None:
    """Fills `folder` with root/, the system of the native device."""
    architecture = run(["dpkg", "--print-architecture"], "this machine's architecture is not known").strip()
    root = folder / "root"
    make_root(root, Archive(folder / "apt", architecture))
    shutil.rmtree(folder / "apt")
    busybox = root / "usr/bin/busybox"
    for name in run([str(busybox), "--list"], "busybox does not run").split():
        if not (root / "usr/bin" / name).exists():
            (root / "usr/bin" / name).symlink_to("busybox")
    run(
        ["cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", str(FILES / "adbd_loopback.c"),
         "-o", str(root / "usr/lib/adbd_loopback.so")],
        "what keeps adbd on the loopback interface cannot be compiled",
    )  # fmt: skip
