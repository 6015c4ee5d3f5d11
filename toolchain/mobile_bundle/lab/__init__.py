"""Stand-in devices without the Android SDK: a real adbd on this machine, reached by the stock adb client.

    with lab.start("native") as device:
        subprocess.run(["adb", "-s", device.serial, "shell", "cat /proc/meminfo"])

A lab is a Debian system with 2 GiB of memory: its memory, its adb protocol and its instruction set are real; its speed
and its Android are not. Everything ends with the context, or with this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mobile_bundle.errors import ArgumentError, DeviceError
from mobile_bundle.lab import native_device, requirements, virtual_machine
from mobile_bundle.lab.cache import cache_folder, cached
from mobile_bundle.lab.initramfs import make_machine_system
from mobile_bundle.lab.system import make_native_system
from mobile_bundle.native.programs import machine_abi

_PROCESSORS = {"native": "", "arm64": "cortex-a53", "arm64-dotprod": "cortex-a76"}

LAB_NAMES = tuple(_PROCESSORS)
"""native: this machine's processor, in namespaces and a cgroup; arm64: an emulated Cortex-A53, which has no dot
products; arm64-dotprod: an emulated Cortex-A76, which has them."""


@dataclass(frozen=True)
class LabDevice:
    """A lab that runs. Its shell is root's, and what it writes below /data lies on a disk, not in its memory."""

    name: str
    serial: str
    """For adb -s: "127.0.0.1:PORT". After a restart of the adb server, `adb connect` this."""
    label: str
    """What to say beside every figure from it."""
    abi: str
    memory_bytes: int
    _command: Callable[[str], None] = field(repr=False, compare=False)

    def kill(self) -> None:
        """Pulls the plug: the whole device is gone when this returns. Raises UserError when the lab has ended."""
        self._command("kill")

    def kill_adbd(self) -> None:
        """Kills adbd for good; everything else keeps running. Raises UserError when the lab has ended."""
        self._command("kill-adbd")


def obstacle(name: str) -> str | None:
    """Why this machine can have no lab of that name, whatever is installed on it; None: it can."""
    return requirements.obstacle(native=not _PROCESSORS[name])


def _label(processor: str) -> str:
    if processor:
        return f"arm64 lab: emulated {processor.title()}, its speed is not a phone's"
    return f"native lab: {os.uname().machine} at host speed, not a phone"


def _system(name: str) -> Path:
    """The built system of a lab; the first time, it is fetched and built."""

    def build(folder: Path) -> None:
        print(f"lab: building the {name} system, once", file=sys.stderr, flush=True)
        (make_native_system if name == "native" else make_machine_system)(folder)

    return cached("native" if name == "native" else "arm64", build)


class _Answers:
    """The supervisor's side of a conversation in lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def read(self) -> dict[str, object]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise DeviceError("the lab's supervisor has ended")
        answer: dict[str, object] = json.loads(line)
        if "error" in answer:
            raise DeviceError(str(answer["error"]))
        return answer

    def command(self, word: str) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise DeviceError("the lab has ended") from error
        self.read()


@contextmanager
def start(
    name: str, *, memory_bytes: int = 2 << 30, data_dir: Path | None = None, work: Path | None = None
) -> Iterator[LabDevice]:
    """Starts a lab of LAB_NAMES and connects the adb server to it.

    memory_bytes: the device's memory. data_dir: its contents lie in /data/local/tmp from the start (a copy; pushing to
    an emulated machine is slow). work: the folder in which the device's disk is for as long as it runs (default: in the
    cache folder). The first start of a kind fetches and builds its system into the cache folder.

    Raises UserError when the machine cannot do it: no root, no memory cgroup, a program that cannot be installed."""
    if name not in _PROCESSORS:
        raise ArgumentError(f"there is no lab {name!r}; known: {', '.join(LAB_NAMES)}")
    if data_dir is not None and not data_dir.is_dir():
        raise ArgumentError(f"{data_dir}: the folder for the device's data does not exist")
    if (why := obstacle(name)) is not None:
        raise DeviceError(why)
    processor = _PROCESSORS[name]
    requirements.need_programs(virtual_machine.PROGRAMS if processor else native_device.PROGRAMS)
    specification = {
        "name": name,
        "owner": os.getpid(),
        "run": str((work or cache_folder() / "run").absolute()),
        "system": str(_system(name)),
        "memory_bytes": memory_bytes,
        "data_dir": str(data_dir.absolute()) if data_dir else None,
        "processor": processor,
    }
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "mobile_bundle.lab.supervisor", json.dumps(specification)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        answers = _Answers(supervisor)
        serial = f"127.0.0.1:{answers.read()['port']}"
        abi = "arm64-v8a" if processor else machine_abi()
        yield LabDevice(name, serial, _label(processor), abi, memory_bytes, answers.command)
    finally:
        supervisor.terminate()
        supervisor.communicate()
