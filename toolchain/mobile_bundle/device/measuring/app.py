"""The demo app on an Android device, over adb: installs it and uses its hooks (android_demo/README.md)."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

from mobile_bundle.device.transport.adb import Device
from mobile_bundle.device.transport.errors import DeviceTimeout, ShellFailed
from mobile_bundle.files.inputs import parse_json

TOOLS = ("am", "run-as")
"""The programs of Android that this needs, as the probe's `tools` names them."""

_PACKAGE = "dev.mobilebundle.demo"
_RESULT = "device_test"
_FILE = f"files/automation/{_RESULT}.json"
_POLL = 0.25


def install_app(device: Device, apk: Path, timeout: float = 300) -> None:
    """Installs the app, over an earlier one with the same key. Raises DeviceError with the installer's own words."""
    remote = f"/data/local/tmp/{_PACKAGE}.apk"  # where the installer, which is another user, may read
    device.push_file(apk, remote, timeout)
    device.shell(f"pm install -r {remote}; status=$?; rm -f {remote}; exit $status", timeout)


def ask_app(device: Device, bundle: str, prompt: str, max_new_tokens: int, timeout: float = 300) -> dict[str, Any]:
    """What the app's AutomationActivity writes: `status` "done" with text and figures, or "failed" with `error`.

    bundle: the path on the device of a .mbundle.zip, or the `bundle` of an earlier result. timeout: seconds, import
    included. Raises DeviceError, also where the app cannot be started; DeviceTimeout where it writes nothing."""
    device.shell(f"run-as {_PACKAGE} rm -f {_FILE}")
    start = (
        f"am start -W -n {_PACKAGE}/.ui.AutomationActivity --es bundle {shlex.quote(bundle)} "
        f"--es prompt {shlex.quote(prompt)} --ei max_new_tokens {max_new_tokens} --es result {_RESULT}"
    )
    said = device.shell(start, timeout=60)
    error = next((line for line in said.splitlines() if line.startswith("Error")), "")
    if error:  # am ends with status 0 all the same
        raise ShellFailed(f"{device.serial}: the app cannot be started: {error}", 0)
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        found = device.try_shell(f"run-as {_PACKAGE} cat {_FILE}")
        if found.status == 0:
            result = parse_json(found.stdout, "the app's result")
            if isinstance(result, dict):
                return result
            raise ShellFailed(f"{device.serial}: the app's result is not a JSON object", 0)
        time.sleep(_POLL)
    raise DeviceTimeout(f"{device.serial}: the app wrote no result within {timeout:.0f} s; see adb logcat")
