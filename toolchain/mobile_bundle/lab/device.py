"""What the supervisor asks of a device, whichever kind it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

FIRST_PORT = 5600
"""Lower ports are where adb looks for emulators on its own."""

LAST_PORT = 5999


@dataclass(frozen=True)
class Specification:
    """What a device is to be."""

    name: str
    run: Path
    """The folder for everything that it writes."""
    system: Path
    """Its system as built."""
    memory_bytes: int
    data_dir: Path | None
    """What to lay into /data/local/tmp beforehand."""
    processor: str
    """QEMU's name of the processor; empty for the native device."""


class Device(Protocol):
    """A device that starts when it is made; close() in any case, also when making it failed half way."""

    @property
    def port(self) -> int:
        """The port on 127.0.0.1 where its adbd listens."""

    def start(self, pause: Callable[[float], bool]) -> None:
        """Starts it; pause(seconds) waits, and gives False when it is time to give up. Raises UserError."""

    def alive(self) -> bool:
        """Whether it runs."""

    def tick(self) -> None:
        """Called five times a second."""

    def kill_adbd(self) -> None:
        """Kills adbd and nothing else."""

    def kill(self) -> None:
        """Pulls the plug; returns when nothing of it runs any more."""

    def close(self) -> None:
        """kill(), and gives back all that lies outside its folder."""

    def log(self) -> Path:
        """What it wrote."""
