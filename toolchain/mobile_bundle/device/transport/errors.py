"""What can go wrong between this machine and a device: each is one line that says what happened and what to do.
The code of each is its name in a report."""

from __future__ import annotations

from mobile_bundle.errors import DeviceError


class TransportError(DeviceError):
    """The way to the device broke; what the device was doing is not known. It may be tried again."""


class DeviceGone(TransportError):
    """Unplugged, switched off, or adbd has ended."""

    code = "device-gone"


class DeviceOffline(TransportError):
    """adb knows the device, which does not answer."""

    code = "device-offline"


class Unauthorized(DeviceError):
    """The device does not trust this computer."""

    code = "unauthorized"


class NoSpace(DeviceError):
    """The device's disk is full."""

    code = "no-space"


class DeviceTimeout(DeviceError):
    """The device was there and said nothing for too long."""

    code = "timeout"


class ShellFailed(DeviceError):
    """A command on the device failed. status: its exit status."""

    code = "shell-failed"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
