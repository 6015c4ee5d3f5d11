"""The stock `adb` client as a program: where it is, which devices it knows, and what its messages mean.

It reads ADB_VENDOR_KEYS, ANDROID_SERIAL and ANDROID_ADB_SERVER_PORT from the environment itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence

from mobile_bundle.device.transport.errors import DeviceGone, DeviceOffline, DeviceTimeout, NoSpace, Unauthorized
from mobile_bundle.errors import DeviceError, InstallationError

LOST = 255
"""The client's exit status when the connection ended before the device told the command's."""

_GONE = re.compile(
    r"device '.*' not found|no devices/emulators found|device not found|error: closed|connection reset|broken pipe"
    r"|protocol fault|failed to get feature set|cannot connect to daemon|couldn't read from device|connect failed"
    r"|failed to read (copy|response)|unexpected EOF|no transport",
    re.IGNORECASE,
)


def adb_program() -> str:
    """The path of adb. UserError where there is none."""
    program = shutil.which("adb")
    if program is None:
        raise InstallationError(
            "adb is missing", "install Android's platform-tools (Debian and Ubuntu: apt install adb)"
        )
    return program


def call_adb(*arguments: str, timeout: float = 30, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Runs the client to its end. data: its standard input (none: empty). DeviceTimeout after `timeout` seconds."""
    command = [adb_program(), *arguments]
    try:
        if data is None:
            return subprocess.run(command, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL)
        return subprocess.run(command, capture_output=True, timeout=timeout, input=data)
    except subprocess.TimeoutExpired:
        raise DeviceTimeout(
            f"adb {_shown(arguments)} did not end within {timeout:.0f} s: is the device asleep or very slow?"
        ) from None


def _shown(arguments: Sequence[str]) -> str:
    """The arguments without the text of a script."""
    return " ".join(argument if len(argument) < 40 else f"{argument[:36]}..." for argument in arguments)


def known_devices() -> dict[str, str]:
    """Serials of the devices that adb knows, with their state ("device", "offline", "unauthorized", ...)."""
    lines = call_adb("devices").stdout.decode("utf-8", "replace").splitlines()
    pairs = (line.split("\t") for line in lines if "\t" in line)
    return {pair[0]: pair[1].strip() for pair in pairs}


def choose_serial() -> str:
    """The device to use where none was named: ANDROID_SERIAL, or the only one there is. UserError otherwise."""
    if os.environ.get("ANDROID_SERIAL"):
        return os.environ["ANDROID_SERIAL"]
    devices = known_devices()
    if not devices:
        raise DeviceError(
            "adb finds no device: connect one with USB debugging on, or use a stand-in device with `lab` native"
        )
    if len(devices) > 1:
        raise DeviceError(f"adb finds {len(devices)} devices ({', '.join(devices)}): choose one with `serial`")
    return next(iter(devices))


def transport_error(serial: str, message: str) -> DeviceError | None:
    """What the client's own words on standard error mean; None where they are about something else."""
    line = next(
        (line for line in message.splitlines() if line.startswith(("error:", "adb:", "* cannot", "* failed"))), ""
    )
    if not line:
        return None
    if "No space left on device" in line:
        return NoSpace(f"{serial}: no space left on the device; free some, or choose another folder with `work`")
    if "unauthorized" in line:
        return Unauthorized(f"{serial} does not trust this computer: confirm 'Allow USB debugging' on its screen")
    if "offline" in line:
        return DeviceOffline(f"{serial} is offline: it does not answer adb; reconnect it or start it again")
    if _GONE.search(line):
        return gone(serial)
    return None


def gone(serial: str) -> DeviceGone:
    """That the device is not there any more."""
    return DeviceGone(f"{serial} is gone: it was unplugged, switched off, or its adbd ended; connect it and run again")
