"""What the tests of device tests share: running one with a hand on the plug."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from mobile_bundle.device.measuring.result import Run
from mobile_bundle.device.report.baseline import report_schema
from mobile_bundle.device.report.results import CellResult, Report, settle
from mobile_bundle.device.session import Asked, device_test
from mobile_bundle.device.transport.adb import Device
from mobile_bundle.device.transport.device_info import DeviceInfo
from mobile_bundle.errors import DeviceError


def run_test(asked: Asked, serial: str, kept: Path) -> Report:
    """A device test that keeps its report in a file after every run, as the command does."""
    return device_test(
        asked, Device(serial), lambda report: _keep(kept, report), lambda line: print(line), lambda *_: None
    )


def _keep(path: Path, report: Report) -> None:
    path.write_text(report.to_json(), "utf-8")


def valid_report(path: Path) -> dict[str, Any]:
    """A report's JSON, which must be as the schema says."""
    data = json.loads(path.read_text("utf-8"))
    Draft202012Validator(report_schema()).validate(data)
    return data


class WhenRunning:
    """Context manager: calls `action` once, as soon as a program of that name runs on the device. done: whether it
    did."""

    def __init__(self, serial: str, action: Callable[[], object], program: str = "mobile-run") -> None:
        self._device, self._action = Device(serial), action
        self._script = f"pidof {program}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.done = False

    def _watch(self) -> None:
        while not self._over.is_set():
            try:
                if self._device.try_shell(self._script).status == 0:
                    self._action()
                    self.done = True
                    return
            except DeviceError:
                pass
            time.sleep(0.02)

    def __enter__(self) -> WhenRunning:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


ANDROID = {
    "machine": ["armv8l"],
    "kernel": ["4.9.190"],
    "user": ["2000"],
    "cpuinfo": ["processor\t: 0", "processor\t: 1", "Features\t: half thumb neon vfpv4", "Hardware\t: MT6739"],
    "meminfo": ["MemTotal:        1900000 kB", "MemAvailable:    1000000 kB", "SwapTotal:       1000000 kB"],
    "page": ["KernelPageSize:        4 kB"],
    "clusters": ["1400000 0 1 2 3"],
    "thermal": ["41500 mtktscpu", "-127000 mtktsbattery"],
    "zram": ["1024000000"],
    "properties": [
        "[ro.build.version.release]: [11]",
        "[ro.product.manufacturer]: [Nokia]",
        "[ro.product.model]: [C2]",
        "[ro.product.cpu.abilist]: [armeabi-v7a,armeabi]",
        "[ro.config.low_ram]: [true]",
        "[ro.lmk.thrashing_limit]: [30]",
    ],
    "tools": ["getprop", "dumpsys", "logcat"],
    "free": ["Filesystem 1024-blocks Used Available", "/dev/block/dm-3 8000000 5000000 3000000 63% /data"],
}
"""What the probe's script prints on a small phone, by section; made up after the formats, not recorded."""


def figured(facts: DeviceInfo, manifest: dict[str, Any], cells: dict[str, list[Run]]) -> Report:
    """A report of these runs of the native runner."""
    bundle = {"name": "m.mbundle", "model": "m", "recipe": "bitnet", "parameters": 1, "bytes": 1, "sha256": "0" * 64,
              "predicted": manifest["predicted"]}  # fmt: skip
    settings = {"cells": list(cells), "reps": 1, "context": 512, "threads": 0, "budgets": {}}
    report = Report("1", "2026-01-01T00:00:00+00:00", "command", facts.label, facts, bundle, settings, finished=True)
    for name, runs in cells.items():
        report.cells.append(CellResult("native", False, name, name, runs))
        settle(report.cells[-1])
    return report
