"""The little of adb that a lab needs to make its device known to the user's adb server."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from mobile_bundle.errors import DeviceError


def _adb(*arguments: str, timeout: float = 10) -> str:
    """What adb says, on either stream; empty after `timeout` seconds."""
    try:
        done = subprocess.run(
            ["adb", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip()


def start_server() -> None:
    """Starts the adb server unless it runs (ANDROID_ADB_SERVER_PORT names another one). It outlives the lab, as after
    any use of adb. Raises UserError when it cannot be started."""
    for _ in range(3):  # two who start it at once may both fail at first
        # No pipes: the server would keep them open for as long as it lives.
        done = subprocess.run(
            ["adb", "start-server"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if done.returncode == 0:
            return
    raise DeviceError("the adb server does not start: see what `adb start-server` says")


def connect(serial: str, pause: Callable[[float], bool]) -> bool:
    """Connects the server to a device and waits until a shell answers there. pause(seconds): waits, and returns False
    when it is time to give up. Returns whether the device answers."""
    while True:
        if "connected to" in _adb("connect", serial) and _adb("-s", serial, "shell", "echo ready") == "ready":
            return True
        disconnect(serial)  # a connection made too early stays "offline"
        if not pause(0.2):
            return False


def disconnect(serial: str) -> None:
    """Makes the server forget the device; without it a dead one is listed as offline."""
    _adb("disconnect", serial)
