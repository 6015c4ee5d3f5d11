"""The state of a device that changes from run to run: temperature, clocks, memory, kills so far."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mobile_bundle.device.transport.adb import Device
from mobile_bundle.device.transport.probe import read_zones

_SCRIPT = """{
echo "up $(cut -d ' ' -f 1 /proc/uptime)"
echo "kills $(grep '^oom_kill ' /proc/vmstat)"
echo "available $(grep MemAvailable /proc/meminfo)"
for c in /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq; do [ -r $c ] && echo "clock $(cat $c)"; done
command -v dumpsys >/dev/null && echo "thermal $(dumpsys thermalservice | grep -m 1 'Thermal Status')"
for z in /sys/class/thermal/thermal_zone*; do [ -r $z/temp ] && echo "zone $(cat $z/temp) $(cat $z/type)"; done
true; } 2>/dev/null"""


@dataclass(frozen=True)
class DeviceState:
    """up_seconds: since the device started, the kernel log's clock. oom_kills: by the kernel since then, None where it
    does not count them. thermal_status: Android's, 0 (none) to 6 (shutdown). zones: degrees Celsius."""

    up_seconds: float
    oom_kills: int | None
    available_bytes: int
    clocks_khz: list[int] = field(default_factory=list)
    thermal_status: int | None = None
    zones: dict[str, float] = field(default_factory=dict)


def read_state(device: Device) -> DeviceState:
    """The state now. Raises DeviceError."""
    return parse_state(device.try_shell(_SCRIPT).stdout)


def parse_state(text: str) -> DeviceState:
    """The state from what the script printed."""
    rows: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        rows.setdefault(name, []).append(value)

    def number(name: str) -> float | None:
        match = re.search(r"\d+(\.\d+)?", rows.get(name, [""])[0])
        return float(match[0]) if match else None

    kills, status = number("kills"), number("thermal")
    return DeviceState(
        up_seconds=number("up") or 0.0,
        oom_kills=None if kills is None else int(kills),
        available_bytes=int(number("available") or 0) * 1024,
        clocks_khz=[int(value) for value in rows.get("clock", []) if value.isdigit()],
        thermal_status=None if status is None else int(status),
        zones=read_zones(rows.get("zone", [])),
    )
