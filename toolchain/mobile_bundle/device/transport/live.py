"""A program that runs on the device while this one reads what it says."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import IO

from mobile_bundle.device.transport.adb import Device
from mobile_bundle.device.transport.client import LOST, gone, transport_error
from mobile_bundle.device.transport.errors import DeviceTimeout
from mobile_bundle.errors import DeviceError

OnLine = Callable[[str, str], None]
"""(stream, line): "out" or "err", and one line without its end."""


class LiveProgram:
    """A script started by adb. Its lines are read by threads of their own, so that neither stream can block it.

    Leaving the context ends the client; the device's adbd then hangs up on the script."""

    def __init__(self, device: Device, script: str) -> None:
        self._device = device
        self._process = device.start(script)
        self._lines: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()
        self._open_streams = 2
        self._threads = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in (("out", self._process.stdout), ("err", self._process.stderr))
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, name: str, stream: IO[bytes]) -> None:
        for line in stream:
            self._lines.put((name, line.decode("utf-8", "replace").rstrip("\r\n")))
        self._lines.put((name, None))

    def __enter__(self) -> LiveProgram:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for thread in self._threads:
            thread.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:  # what was still to be sent to a program that is gone
                    continue

    def send(self, text: str) -> None:
        """Writes to its standard input; a program that has ended takes nothing, which is no error."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text.encode("utf-8"))
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return

    def close_input(self) -> None:
        """Ends its standard input."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            return

    def read_line(self, seconds: float) -> tuple[str, str] | None:
        """The next line of either stream; None at the end of both. DeviceTimeout after so many silent seconds."""
        while self._open_streams:
            try:
                name, line = self._lines.get(timeout=seconds)
            except queue.Empty:
                raise DeviceTimeout(f"{self._device.serial} said nothing for {seconds:.0f} s") from None
            if line is not None:
                return name, line
            self._open_streams -= 1
        return None

    def follow(self, seconds: float, on_line: OnLine) -> int:
        """Hands every line on until the program ends; its exit status. DeviceTimeout after `seconds` in all."""
        end = time.monotonic() + seconds
        while (pair := self.read_line(max(end - time.monotonic(), 0.01))) is not None:
            on_line(*pair)
        return self.wait()

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Its exit status, once its streams have ended or its input was closed."""
        try:
            return self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            raise DeviceTimeout(f"{self._device.serial}: a program did not end") from None


def lost(device: Device, status: int, said: str) -> DeviceError | None:
    """The transport's error behind a client that ended with this status and these words before the program had said
    its last word; None where it was the program that failed."""
    error = transport_error(device.serial, said) if status else None
    return error or (gone(device.serial) if status in (0, LOST) else None)
