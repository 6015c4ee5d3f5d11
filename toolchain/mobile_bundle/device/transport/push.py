"""Files onto a device: only what changed, verified by sha256, whole or not at all, continuing where it stopped.

A file is there under its name only when it is whole: it grows as NAME.partial and is renamed at the end. Parts of PART
bytes go over adb's own protocol into NAME.part, are compared by sha256, and appended; a push that was interrupted finds
NAME.partial, keeps the part that equals the local file, and continues."""

from __future__ import annotations

import functools
import hashlib
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from mobile_bundle.container.manifest import sha256
from mobile_bundle.device.transport.adb import Device
from mobile_bundle.device.transport.errors import ShellFailed
from mobile_bundle.errors import DeviceError
from mobile_bundle.files.disk import write_file
from mobile_bundle.files.work_folder import scratch_folder

PART = 16 << 20
"""Bytes that an interruption may cost; a smaller file is pushed in one piece."""

Progress = Callable[[int, int, str], None]
"""(done, total, what) in bytes."""

_SLOWEST = 1_000_000
"""Bytes per second that a device hashes and copies at the least; timeouts are made of it."""


def remote_sha256(device: Device, paths: list[str], sizes: list[int]) -> dict[str, str]:
    """sha256 of those files that are on the device. sizes: of the local ones, for how long to wait."""
    if not paths:
        return {}
    script = f'for f in {shlex.join(paths)}; do [ -f "$f" ] && sha256sum "$f"; done; true'
    lines = device.shell(script, timeout=30 + sum(sizes) / _SLOWEST).splitlines()
    pairs = (line.split(maxsplit=1) for line in lines)
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2 and len(pair[0]) == 64}


def push_changed(device: Device, files: Mapping[str, Path], progress: Progress) -> int:
    """Pushes {absolute path on the device: local file} as far as they are not there, unchanged; executable.

    Returns the bytes that travelled. Raises NoSpace, ShellFailed or a TransportError; what has arrived stays."""
    sizes = {remote: local.stat().st_size for remote, local in files.items()}
    there = remote_sha256(device, list(files), list(sizes.values()))
    wanted = {remote: sha256(local) for remote, local in files.items()}
    todo = [remote for remote in files if there.get(remote) != wanted[remote]]
    total, done, travelled = sum(sizes[remote] for remote in todo), 0, 0
    for remote in todo:
        folder = remote.rpartition("/")[0]
        device.shell(f"mkdir -p {shlex.quote(folder)}")
        travelled += _push_file(
            device, files[remote], remote, wanted[remote], functools.partial(_advance, progress, done, total, remote)
        )
        done += sizes[remote]
        progress(done, total, remote)
    return travelled


def _advance(progress: Progress, before: int, total: int, what: str, sent: int) -> None:
    progress(before + sent, total, what)


def _push_file(device: Device, local: Path, remote: str, digest: str, sent: Callable[[int], None]) -> int:
    size = local.stat().st_size
    start = _kept(device, local, f"{remote}.partial", size)
    with open(local, "rb") as file:
        file.seek(start)
        offset = start
        while offset < size or size == 0:
            data = file.read(PART)
            _append(device, remote, data, offset)
            offset += len(data)
            sent(offset)
            if size == 0:
                break
    partial, whole = shlex.quote(f"{remote}.partial"), shlex.quote(remote)
    found = remote_sha256(device, [f"{remote}.partial"], [size]).get(f"{remote}.partial")
    if found != digest:
        device.shell(f"rm -f {partial}")
        raise DeviceError(f"{device.serial}: {remote} was damaged on the way (its sha256 differs)", "run again")
    device.shell(f"chmod 755 {partial} && mv {partial} {whole}")
    return size - start


def _kept(device: Device, local: Path, partial: str, size: int) -> int:
    """Bytes of an interrupted push that are right, rounded down to whole parts; 0 where there are none."""
    quoted = shlex.quote(partial)
    text = device.shell(f"[ -f {quoted} ] && stat -c %s {quoted} || echo 0").strip()
    kept = min(int(text) if text.isdigit() else 0, size) // PART * PART
    if kept:
        script = f"truncate -s {kept} {quoted} && sha256sum {quoted}"
        found = device.shell(script, timeout=30 + kept / _SLOWEST).split()[:1]
        if found == [_sha256_of_start(local, kept)]:
            return kept
    device.shell(f"rm -f {quoted}")
    return 0


def _sha256_of_start(local: Path, count: int) -> str:
    digest = hashlib.sha256()
    with open(local, "rb") as file:
        while count:
            data = file.read(min(count, 1 << 20))
            if not data:
                break
            digest.update(data)
            count -= len(data)
    return digest.hexdigest()


def _append(device: Device, remote: str, data: bytes, offset: int) -> None:
    """Sends one part and appends it, in a way that may be repeated: first the partial file is cut to `offset`."""
    part, partial = f"{remote}.part", f"{remote}.partial"
    with scratch_folder() as folder:
        write_file(folder / "part", data)
        device.push_file(folder / "part", part, timeout=60 + len(data) / 50_000)
    p, q = shlex.quote(part), shlex.quote(partial)
    digest = hashlib.sha256(data).hexdigest()
    script = (
        f'[ "$(sha256sum < {p} | cut -c 1-64)" = {digest} ] || {{ echo a part arrived damaged >&2; exit 9; }};'
        f" : >> {q} && truncate -s {offset} {q} && cat {p} >> {q}"
    )
    try:
        device.shell(script, timeout=60 + 2 * len(data) / _SLOWEST)
    except ShellFailed:
        device.try_shell(f"rm -f {p}")
        raise
    device.shell(f"rm -f {p}")
