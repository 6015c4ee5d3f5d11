"""/proc/meminfo and /proc/vmstat as a device would have them whose whole memory is one cgroup."""

from __future__ import annotations

from mobile_bundle.lab.cgroup import MemoryState

_PAGE = 4096


def available_bytes(state: MemoryState) -> int:
    """MemAvailable as the kernel means it: free, or in caches that can be dropped without swapping."""
    free = max(state.limit - state.usage, 0)
    return min(state.limit, free + state.active_file + state.inactive_file + state.slab_reclaimable)


def meminfo(state: MemoryState) -> str:
    """The lines that a cgroup can tell, always of the same length, so that a reader never sees half a number."""
    lines = {
        "MemTotal": state.limit,
        "MemFree": max(state.limit - state.usage, 0),
        "MemAvailable": available_bytes(state),
        "Buffers": 0,
        "Cached": state.file,
        "SwapCached": 0,
        "Active": state.active_anon + state.active_file,
        "Inactive": state.inactive_anon + state.inactive_file,
        "Active(anon)": state.active_anon,
        "Inactive(anon)": state.inactive_anon,
        "Active(file)": state.active_file,
        "Inactive(file)": state.inactive_file,
        "Unevictable": state.unevictable,
        "SwapTotal": 0,
        "SwapFree": 0,
        "Dirty": state.dirty,
        "Writeback": state.writeback,
        "AnonPages": state.anon,
        "Mapped": state.mapped,
        "Shmem": state.shmem,
        "SReclaimable": state.slab_reclaimable,
    }
    return "".join(f"{name + ':':<16}{value // 1024:>9} kB\n" for name, value in lines.items())


def vmstat(state: MemoryState) -> str:
    """The lines that a cgroup can tell: faults, refaults, kills, and pages by kind."""
    lines = {
        "nr_anon_pages": state.anon // _PAGE,
        "nr_mapped": state.mapped // _PAGE,
        "nr_file_pages": state.file // _PAGE,
        "nr_dirty": state.dirty // _PAGE,
        "nr_writeback": state.writeback // _PAGE,
        "nr_shmem": state.shmem // _PAGE,
        "workingset_refault_anon": state.refault_anon,
        "workingset_refault_file": state.refault_file,
        "pgfault": state.faults,
        "pgmajfault": state.major_faults,
        "oom_kill": state.oom_kills,
    }
    return "".join(f"{name} {value:>20}\n" for name, value in lines.items())
