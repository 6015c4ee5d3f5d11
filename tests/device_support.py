"""What the tests of device tests share: running one with a hand on the plug."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from mobile_bundle.device.adb import Device
from mobile_bundle.device.baseline import report_schema
from mobile_bundle.device.errors import DeviceError
from mobile_bundle.device.results import Report
from mobile_bundle.device.session import Asked, device_test


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
