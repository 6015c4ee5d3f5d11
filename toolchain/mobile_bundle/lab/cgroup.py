"""A memory cgroup, version 1 or 2: the memory of the native device."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from mobile_bundle.errors import DeviceError, UnsupportedError


@dataclass(frozen=True)
class Hierarchy:
    """Where the kernel's memory controller is: the version (1 or 2) of its cgroups and the folder of the topmost."""

    version: int
    path: Path


def memory_hierarchy(mounts: str | None = None) -> Hierarchy:
    """Finds the memory controller (mounts: the text of /proc/self/mountinfo). Raises UserError when there is none."""
    for line in (mounts if mounts is not None else Path("/proc/self/mountinfo").read_text()).splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        # The kernel writes a space in a path as \040.
        path = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), before.split(" ")[4]))
        if kind == "cgroup" and "memory" in options.split(","):
            return Hierarchy(1, path)
        controllers = path / "cgroup.controllers"
        if kind == "cgroup2" and controllers.exists() and "memory" in controllers.read_text().split():
            return Hierarchy(2, path)
    raise UnsupportedError("the native lab needs the kernel's memory cgroup, which is not mounted here")


@dataclass(frozen=True)
class MemoryState:
    """Memory charged to a cgroup and those below it, in bytes; faults and refaults in pages, and processes killed for
    want of memory, since it was made."""

    limit: int
    usage: int
    anon: int
    file: int
    active_anon: int
    inactive_anon: int
    active_file: int
    inactive_file: int
    unevictable: int
    mapped: int
    shmem: int
    dirty: int
    writeback: int
    slab_reclaimable: int
    faults: int
    major_faults: int
    refault_anon: int
    refault_file: int
    oom_kills: int


_STATE = (
    # Version 1 counts a cgroup alone; with "total_", those below it too.
    ("anon", "total_rss", "anon"),
    ("file", "total_cache", "file"),
    ("active_anon", "total_active_anon", "active_anon"),
    ("inactive_anon", "total_inactive_anon", "inactive_anon"),
    ("active_file", "total_active_file", "active_file"),
    ("inactive_file", "total_inactive_file", "inactive_file"),
    ("unevictable", "total_unevictable", "unevictable"),
    ("mapped", "total_mapped_file", "file_mapped"),
    ("shmem", "total_shmem", "shmem"),
    ("dirty", "total_dirty", "file_dirty"),
    ("writeback", "total_writeback", "file_writeback"),
    ("slab_reclaimable", "slab_reclaimable", "slab_reclaimable"),  # only in version 2
    ("faults", "total_pgfault", "pgfault"),
    ("major_faults", "total_pgmajfault", "pgmajfault"),
    ("refault_anon", "total_workingset_refault_anon", "workingset_refault_anon"),
    ("refault_file", "total_workingset_refault_file", "workingset_refault_file"),
)
"""A field of MemoryState and its name in memory.stat of version 1 and 2."""


class Cgroup:
    """A new cgroup below the topmost one that gives its processes `limit` bytes of memory and no swap.

    Raises UserError when the kernel does not let it be made."""

    def __init__(self, name: str, limit: int, hierarchy: Hierarchy | None = None) -> None:
        self.hierarchy = hierarchy or memory_hierarchy()
        self.path = self.hierarchy.path / name
        self._limit = limit
        self._version_1 = self.hierarchy.version == 1
        try:
            if not self._version_1:
                (self.hierarchy.path / "cgroup.subtree_control").write_text("+memory")
            self.path.mkdir()
            if self._version_1:
                self._write("memory.limit_in_bytes", limit)
                self._write("memory.swappiness", 0)
                if (self.path / "memory.memsw.limit_in_bytes").exists():
                    self._write("memory.memsw.limit_in_bytes", limit)
            else:
                self._write("memory.max", limit)
                if (self.path / "memory.swap.max").exists():
                    self._write("memory.swap.max", 0)
        except OSError as error:
            raise DeviceError(f"the memory cgroup {self.path} cannot be made: {error.strerror}") from error

    def _write(self, name: str, value: int) -> None:
        (self.path / name).write_text(str(value))

    def join(self) -> None:
        """Moves this process into the cgroup: what it and its children take from now on is charged there."""
        self._write("cgroup.procs", os.getpid())

    def processes(self) -> list[int]:
        """Process ids, as this process sees them."""
        return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]

    def pressure_file(self) -> Path | None:
        """The cgroup's own /proc/pressure/memory, which only version 2 has."""
        path = self.path / "memory.pressure"
        return path if not self._version_1 and path.exists() else None

    def memory(self) -> MemoryState:
        """What is charged now."""
        usage = int((self.path / ("memory.usage_in_bytes" if self._version_1 else "memory.current")).read_text())
        pairs = (line.split() for line in (self.path / "memory.stat").read_text().splitlines())
        values = {name: int(value) for name, value in pairs}
        column = 1 if self._version_1 else 2
        known = {names[0]: values.get(names[column], 0) for names in _STATE}
        return MemoryState(self._limit, usage, **known, oom_kills=self._oom_kills())

    def _oom_kills(self) -> int:
        text = (self.path / ("memory.oom_control" if self._version_1 else "memory.events")).read_text()
        return int(dict(line.split() for line in text.splitlines()).get("oom_kill", 0))

    def remove(self) -> None:
        """Removes the cgroup, whose processes must be gone or about to go. Raises OSError when one stays."""
        remove_cgroup(self.path)


def remove_cgroup(path: Path) -> None:
    """Removes a cgroup's folder once its last process is buried; at most ten seconds. Raises OSError after that."""
    end = time.monotonic() + 10
    while True:
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
