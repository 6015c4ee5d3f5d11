"""One device behind the stock adb client: shell with exit codes, files in both directions, and reconnecting.

What only broke on the way (TransportError) is tried again; a command that failed on the device is not."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from mobile_bundle.device.transport.client import LOST, adb_program, call_adb, gone, known_devices, transport_error
from mobile_bundle.device.transport.errors import NoSpace, ShellFailed, TransportError
from mobile_bundle.errors import DeviceError

_ATTEMPTS = 3
_END = "mobile-bundle: the script has ended"
"""Printed on standard error by a script that succeeds: some clients end with status 0 when the connection breaks."""

_PATIENCE = 6.0
"""Seconds that a lost device may take to come back: an adb server that was started again needs about one."""


@dataclass(frozen=True)
class ShellResult:
    """How a command on the device ended."""

    status: int
    stdout: str
    stderr: str


class Device:
    """A device by its serial, as `adb devices` prints it; HOST:PORT is connected to when it is not known yet."""

    def __init__(self, serial: str) -> None:
        self.serial = serial
        self.reconnections = 0

    def connect(self) -> None:
        """Sees that the device answers. Raises Unauthorized, DeviceOffline or DeviceGone."""
        if known_devices().get(self.serial) != "device":
            self._wait()

    def reconnect(self) -> None:
        """Waits for a device that was lost. Raises the error that is still there after some seconds."""
        self._wait()
        self.reconnections += 1

    def _wait(self) -> None:
        end = time.monotonic() + _PATIENCE
        while True:
            state = known_devices().get(self.serial, "missing")
            if state == "device":
                return
            if self._networked() and state != "unauthorized":
                if state == "offline":  # a connection of earlier that nobody serves any more
                    call_adb("disconnect", self.serial)
                call_adb("connect", self.serial)
                state = known_devices().get(self.serial, "missing")
                if state == "device":
                    return
            if time.monotonic() > end or state == "unauthorized":
                raise transport_error(self.serial, f"error: device {state}") or gone(self.serial)
            time.sleep(0.25)

    def _networked(self) -> bool:
        """Whether adb reaches it by TCP, which a new adb server does not know of by itself."""
        return ":" in self.serial

    def try_shell(self, script: str, timeout: float = 30, data: bytes | None = None) -> ShellResult:
        """Runs a script of sh and gives its exit status, 255 excepted. data: its standard input.

        A script may run more than once where the connection breaks: it must bear that. Raises DeviceError."""
        for attempt in range(_ATTEMPTS):
            marked = f"(\n{script}\n) && echo {_END!r} >&2"
            process = call_adb("-s", self.serial, "shell", "-T", marked, timeout=timeout, data=data)
            stderr, end, _ = process.stderr.decode("utf-8", "replace").rpartition(f"{_END}\n")
            stderr = stderr if end else process.stderr.decode("utf-8", "replace")
            error = transport_error(self.serial, stderr) if process.returncode else None
            if error is None and (process.returncode == LOST or (process.returncode == 0 and not end)):
                error = gone(self.serial)
            if error is None:
                return ShellResult(process.returncode, process.stdout.decode("utf-8", "replace"), stderr)
            if not isinstance(error, TransportError) or attempt == _ATTEMPTS - 1:
                raise error
            self.reconnect()
        raise AssertionError("unreachable")

    def shell(self, script: str, timeout: float = 30, data: bytes | None = None) -> str:
        """The standard output of a script that succeeds. ShellFailed or NoSpace where it does not."""
        result = self.try_shell(script, timeout, data)
        if result.status != 0:
            raise self.failed(script, result)
        return result.stdout

    def failed(self, what: str, result: ShellResult) -> DeviceError:
        """The error that a failed command stands for."""
        words = " ".join((result.stderr.strip() or result.stdout.strip() or "it said nothing").splitlines()[-1:])
        if "No space left on device" in words:
            return NoSpace(f"{self.serial}: no space left on the device ({words}); free some, or choose another `work`")
        shown = what if len(what) < 60 else f"{what[:57]}..."
        return ShellFailed(f"{self.serial}: {shown!r} ended with status {result.status}: {words}", result.status)

    def start(self, script: str) -> subprocess.Popen[bytes]:
        """Starts a script and leaves its three streams to the caller, unbuffered."""
        return subprocess.Popen(
            [adb_program(), "-s", self.serial, "shell", "-T", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # ^C is for this program, which then ends its runs itself
        )

    def push_file(self, local: Path, remote: str, timeout: float = 600) -> None:
        """Copies one file by adb's own protocol, not verified; push.py is for what must be whole."""
        self._transfer(("push", str(local), remote), timeout)

    def pull_file(self, remote: str, local: Path, timeout: float = 600) -> None:
        """Copies one file from the device."""
        self._transfer(("pull", remote, str(local)), timeout)

    def _transfer(self, arguments: tuple[str, ...], timeout: float) -> None:
        for attempt in range(_ATTEMPTS):
            process = call_adb("-s", self.serial, *arguments, timeout=timeout)
            if process.returncode == 0:
                return
            # the client prints why it failed on either stream, by version
            words = (process.stderr + process.stdout).decode("utf-8", "replace")
            error = transport_error(self.serial, words)
            if error is None:
                raise self.failed(f"adb {arguments[0]}", ShellResult(process.returncode, "", words))
            if not isinstance(error, TransportError) or attempt == _ATTEMPTS - 1:
                raise error
            self.reconnect()
