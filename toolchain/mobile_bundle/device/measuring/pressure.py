"""A second process on the device that takes memory away from the first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mobile_bundle.device.transport.adb import Device
from mobile_bundle.device.transport.errors import ShellFailed
from mobile_bundle.device.transport.live import LiveProgram, lost
from mobile_bundle.device.transport.places import Places
from mobile_bundle.events.kinds import HoldingEvent
from mobile_bundle.events.parse import parse_event

_SLOWEST = 20e6
"""Bytes per second that a device fills at the least, swapping included."""


@contextmanager
def memory_pressure(device: Device, places: Places, size: int) -> Iterator[LiveProgram | None]:
    """Holds `size` bytes of anonymous memory while the context is open; 0: nothing is started.

    ShellFailed where the device does not give so many, TransportError where it is gone."""
    if size == 0:
        yield None
        return
    with LiveProgram(device, f"exec {places.watch} hog --anon-bytes {size}") as hog:
        said: list[str] = []
        while (pair := hog.read_line(60 + size / _SLOWEST)) is not None:
            if isinstance(parse_event(pair[1]), HoldingEvent):
                break
            said.append(pair[1])
        else:
            status = hog.wait()
            error = lost(device, status, "\n".join(said))
            raise error or ShellFailed(
                f"the second process did not get its {size / 1e6:.0f} MB (status {status}: {said[-1:] or 'killed'}); "
                f"take less with `pressure`",
                status,
            )
        yield hog
        hog.close_input()
        hog.wait()
