"""The process that owns a device: it ends the device when its own owner ends, however that happens.

python -m mobile_bundle.lab.supervisor SPECIFICATION, which is JSON with the fields of device.Specification (an empty
processor is the native device), but the parent of its folder for "run" and the process id of the "owner". It answers
with one JSON line, {"port"} or {"error"}, when the device is ready, and then with an empty object to each line `kill`
or `kill-adbd` on its standard input, whose end ends it."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from mobile_bundle.errors import DeviceError, UserError
from mobile_bundle.lab import adb
from mobile_bundle.lab.device import Device, Specification
from mobile_bundle.lab.native_device import NativeDevice
from mobile_bundle.lab.process import last_line
from mobile_bundle.lab.run_folder import run_folder
from mobile_bundle.lab.virtual_machine import VirtualMachine

_TICK = 0.2
_READY_SECONDS = 300
"""How long a device may take to answer; twenty times what the slowest takes on an idle machine."""


def _say(**answer: object) -> None:
    with suppress(BrokenPipeError):  # the owner is gone: what there is to do then does not hang on telling it
        print(json.dumps(answer), flush=True)


class _Supervisor:
    def __init__(self, owner: int, device: Device) -> None:
        self._device = device
        self._owner = os.pidfd_open(owner)
        self._deadline = time.monotonic() + _READY_SECONDS
        self._commands = b""

    def _wait(self, seconds: float) -> bool:
        """Waits; returns whether the owner is still there and wants the device. Commands are kept for serve()."""
        ready, _, _ = select.select([0, self._owner], [], [], seconds)
        if self._owner in ready:
            return False
        if 0 in ready:
            got = os.read(0, 4096)
            self._commands += got
            return bool(got)
        return True

    def _pause(self, seconds: float) -> bool:
        return self._wait(seconds) and self._device.alive() and time.monotonic() < self._deadline

    def run(self) -> None:
        """From the start of the device to its end."""
        serial = ""
        try:
            adb.start_server()
            self._device.start(self._pause)
            serial = f"127.0.0.1:{self._device.port}"
            if not adb.connect(serial, self._pause):
                raise DeviceError(f"the lab did not answer adb: {last_line(self._device.log())}")
            _say(port=self._device.port)
            while self._wait(_TICK):
                self._serve()
        except (UserError, OSError) as error:
            _say(error=str(error))
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            self._device.close()
            if serial:
                adb.disconnect(serial)

    def _serve(self) -> None:
        if self._device.alive():
            self._device.tick()
        *lines, self._commands = self._commands.split(b"\n")
        for line in lines:
            {b"kill": self._device.kill, b"kill-adbd": self._device.kill_adbd}[line]()
            _say()


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    """Entry point."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    given = json.loads(sys.argv[1])
    with run_folder(Path(given["run"]), given["name"]) as folder:
        specification = Specification(
            name=given["name"],
            run=folder,
            system=Path(given["system"]),
            memory_bytes=given["memory_bytes"],
            data_dir=Path(given["data_dir"]) if given["data_dir"] else None,
            processor=given["processor"],
        )
        device: Device = VirtualMachine(specification) if given["processor"] else NativeDevice(specification)
        _Supervisor(given["owner"], device).run()


if __name__ == "__main__":
    main()
