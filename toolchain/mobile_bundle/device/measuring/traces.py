"""What the device's own logs say about a process that was killed or crashed, as far as they may be read."""

from __future__ import annotations

import re
import shlex

from mobile_bundle.device.transport.adb import Device
from mobile_bundle.errors import DeviceError

_MOST = 6
"""Lines of evidence that a report keeps."""

_COMM = 15
"""Characters of a program's name that the kernel keeps."""


def kill_traces(device: Device, name: str, pid: int | None, since: float) -> list[str]:
    """Lines of the kernel's log, lmkd and Android's exit records about a killed process.

    since: the device's uptime when it was started. Empty where nothing is found or may be read."""
    script = (
        "{ dmesg | grep -iE 'out of memory|oom-kill|oom_reaper|lowmemorykiller' | tail -n 20;"
        " command -v logcat >/dev/null && logcat -d -b all -t 2000 | grep -iE 'lmkd|lowmemorykiller' | tail -n 20;"
        f" command -v dumpsys >/dev/null && dumpsys activity exit-info | grep -w 'pid={pid or 0}' | tail -n 3;"
        " true; } 2>/dev/null"
    )
    lines = _read(device, script)
    # process ids differ inside a stand-in's namespace, where the kernel's log is the host's: the name counts too
    about = [line for line in lines if name[:_COMM] in line or (pid is not None and re.search(rf"\b{pid}\b", line))]
    return [line for line in about if not _older(line, since)][-_MOST:]


def crash_traces(device: Device, name: str, since: float) -> list[str]:
    """The first lines of the newest tombstone, or what the logs say of the crash."""
    name = name[:_COMM]
    script = (
        "{ t=$(ls -t /data/tombstones/tombstone_[0-9][0-9] | head -n 1);"
        f' [ -n "$t" ] && grep -q {shlex.quote(name)} "$t" && head -n 12 "$t" | grep -E \'pid|signal|Abort\';'
        " command -v logcat >/dev/null && logcat -d -b crash -t 400"
        f" | grep -F -A 8 {shlex.quote(f'name: {name}')} | tail -n 9;"
        f" dmesg | grep -F {shlex.quote(name)} | grep -E 'segfault|trap|undefined|unhandled' | tail -n 5;"
        " true; } 2>/dev/null"
    )
    return [line for line in _read(device, script) if not _older(line, since)][:_MOST]


def _read(device: Device, script: str) -> list[str]:
    """Lines; none where the device cannot be asked any more: the run's own end is what matters then."""
    try:
        return [line.strip() for line in device.try_shell(script).stdout.splitlines() if line.strip()]
    except DeviceError:
        return []


def _older(line: str, since: float) -> bool:
    """Whether it is a line of the kernel's log, which begins with seconds in brackets, from before that time."""
    match = re.match(r"(?:<\d+>)?\[\s*(\d+\.\d+)\]", line)
    return match is not None and float(match[1]) < since - 1
