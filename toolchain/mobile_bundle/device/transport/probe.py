"""What a device is, by one script that needs nothing but sh and what /proc and /sys let it read.

getprop, dumpsys and the like are used where they are; a stand-in device or another Linux has none of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from mobile_bundle.device.transport.adb import Device
from mobile_bundle.device.transport.device_info import Cluster, DeviceInfo
from mobile_bundle.native.programs import ABIS

_TOOLS = ("getprop", "dumpsys", "logcat", "dmesg", "run-as", "am")
_SCRIPT = """
at() { echo "@@$1"; }
at machine; uname -m
at kernel; uname -r
at user; id -u
at cpuinfo; cat /proc/cpuinfo
at meminfo; cat /proc/meminfo
at page; grep -m 1 KernelPageSize /proc/self/smaps
at clusters; for p in /sys/devices/system/cpu/cpufreq/policy*; do
  [ -r $p/cpuinfo_max_freq ] && echo "$(cat $p/cpuinfo_max_freq) $(cat $p/related_cpus)"; done
at thermal; for z in /sys/class/thermal/thermal_zone*; do
  [ -r $z/temp ] && echo "$(cat $z/temp) $(cat $z/type)"; done
at zram; for z in /sys/block/zram*; do [ -r $z/disksize ] && cat $z/disksize; done
at properties; command -v getprop >/dev/null && getprop
at release; [ -r /etc/os-release ] && grep PRETTY_NAME= /etc/os-release
at tools; for t in TOOLS; do command -v $t >/dev/null && echo $t; done
at free; mkdir -p WORK && df -P -k WORK
true
"""


def probe(device: Device, work: str) -> DeviceInfo:
    """work: the folder that will be used, which is made. Raises DeviceError, NoSpace for a folder that cannot be."""
    script = _SCRIPT.replace("TOOLS", " ".join(_TOOLS)).replace("WORK", shlex.quote(work))
    result = device.try_shell(f"{{ {script} }} 2>/dev/null")
    parts = _sections(result.stdout)
    if not parts.get("free"):
        # said again, this time with the reason
        device.shell(f"mkdir -p {shlex.quote(work)} && df -P -k {shlex.quote(work)}")
    return read_device_info(device.serial, parts)


def _sections(text: str) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("@@"):
            lines = parts.setdefault(line[2:], [])
        else:
            lines.append(line)
    return parts


def read_device_info(serial: str, parts: Mapping[str, list[str]]) -> DeviceInfo:
    """Facts from the script's output, by section. What is missing there is missing in them."""
    machine = _first(parts, "machine")
    properties = read_properties(parts.get("properties", []))
    memory = _meminfo(parts.get("meminfo", []))
    cpu = [line.partition(":") for line in parts.get("cpuinfo", [])]
    pairs = [(name.strip(), value.strip()) for name, _, value in cpu]
    release = properties.get("ro.build.version.release")
    maker, model = properties.get("ro.product.manufacturer", ""), properties.get("ro.product.model", "")
    low_ram = properties.get("ro.config.low_ram")
    distribution = _first(parts, "release").partition("=")[2].strip('"')
    return DeviceInfo(
        serial=serial,
        model=f"{maker} {model}".strip() or machine,
        system=f"Android {release}" if release else distribution or "Linux",
        android=release,
        emulator=any(properties.get(name) == "1" for name in ("ro.kernel.qemu", "ro.boot.qemu"))
        or serial.startswith("emulator-"),
        kernel=_first(parts, "kernel"),
        machine=machine,
        abis=_abis(machine, properties),
        root=_first(parts, "user") == "0",
        processor=_value(pairs, "Hardware", "model name", "CPU part"),
        features=_value(pairs, "Features", "flags").split(),
        cores=sum(name == "processor" for name, _ in pairs) or 1,
        clusters=_clusters(parts.get("clusters", [])),
        page_bytes=_number(_first(parts, "page")) * 1024 or 4096,
        memory_bytes=memory.get("MemTotal", 0),
        available_bytes=memory.get("MemAvailable", memory.get("MemFree", 0)),
        swap_bytes=memory.get("SwapTotal", 0),
        zram_bytes=sum(map(_number, parts.get("zram", []))),
        free_bytes=_free(parts.get("free", [])),
        low_ram=None if low_ram is None else low_ram == "true",
        lmk={name: value for name, value in properties.items() if name.startswith("ro.lmk.")},
        thermal_zones=read_zones(parts.get("thermal", [])),
        tools=list(parts.get("tools", [])),
    )


def read_properties(lines: list[str]) -> dict[str, str]:
    """getprop's output, "[name]: [value]", or a property file's, "name=value"."""
    found = {}
    for line in lines:
        match = re.fullmatch(r"\[(.+?)\]: \[(.*)\]", line) or re.fullmatch(r"([\w.]+)=(.*)", line)
        if match:
            found[match[1]] = match[2]
    return found


def read_zones(lines: list[str]) -> dict[str, float]:
    """Degrees Celsius by the zone's type, of lines "TEMP TYPE"; TEMP in thousandths on nearly every kernel."""
    zones: dict[str, float] = {}
    for line in lines:
        value, _, name = line.partition(" ")
        if re.fullmatch(r"-?\d+", value):
            degrees = int(value) / 1000 if abs(int(value)) >= 1000 else float(value)
            if -40 < degrees < 200:  # zones that are switched off say -273, or nonsense
                zones.setdefault(name, degrees)
    return zones


def _abis(machine: str, properties: Mapping[str, str]) -> list[str]:
    """A 64-bit kernel may carry a 32-bit Android: what Android says counts."""
    listed = [abi for abi in properties.get("ro.product.cpu.abilist", "").split(",") if abi in ABIS]
    by_machine = {"aarch64": "arm64-v8a", "armv8l": "armeabi-v7a", "armv7l": "armeabi-v7a", "x86_64": "x86_64"}
    return listed or ([by_machine[machine]] if machine in by_machine else [])


def _clusters(lines: list[str]) -> list[Cluster]:
    rows = [list(map(_number, line.split())) for line in lines]
    return [Cluster(row[1:], row[0]) for row in rows if len(row) > 1]


def _meminfo(lines: list[str]) -> dict[str, int]:
    return {name: _number(value) * 1024 for name, _, value in (line.partition(":") for line in lines)}


def _free(lines: list[str]) -> int:
    """Bytes of df -P -k's column "Available"."""
    fields = lines[-1].split() if len(lines) > 1 else []
    return _number(fields[3]) * 1024 if len(fields) > 3 else 0


def _first(parts: Mapping[str, list[str]], name: str) -> str:
    return next(iter(parts.get(name, [])), "").strip()


def _number(text: str) -> int:
    match = re.search(r"\d+", text)
    return int(match[0]) if match else 0


def _value(pairs: list[tuple[str, str]], *names: str) -> str:
    """The first value of the first of these names that is there."""
    return next((value for wanted in names for name, value in pairs if name == wanted), "")
