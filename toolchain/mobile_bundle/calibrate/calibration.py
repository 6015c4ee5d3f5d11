"""Prepares calibration: the text and the profile of the uncompressed model. Says clearly when torch is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import ArgumentError, InstallationError
from mobile_bundle.models import Model

if TYPE_CHECKING:
    from mobile_bundle.calibrate.profile import Profile

DEVICES = ("cpu", "cuda")
_HELD_OUT = 7
"""One window of so many is not calibrated on: it measures the coded model. Odd, as two kinds of text may take turns."""


@dataclass(frozen=True)
class Calibration:
    """What calibration found. windows: token ids int32 (count, tokens); held_out: windows that nothing is fitted to
    (those of `windows`, where the text has but one); profile: of the uncompressed model; note: for the manifest;
    device: where it was found, "cpu" or "cuda"."""

    windows: NDArray[np.int32]
    held_out: NDArray[np.int32]
    profile: Profile
    note: str
    device: str = "cpu"


def require_torch() -> None:
    """InstallationError without torch, or what else calibration needs."""
    if any(importlib.util.find_spec(package) is None for package in ("torch", "threadpoolctl")):
        raise InstallationError(
            "calibration and budgets need torch and threadpoolctl", "`make calibrate` in a checkout of mobile-bundle"
        )


def check_device(device: str) -> None:
    """ArgumentError for a device other than "cpu" and "cuda"; InstallationError without torch, or where it sees no
    GPU."""
    if device not in DEVICES:
        raise ArgumentError(f"`device` {device!r}: must be {' or '.join(DEVICES)}")
    if device == "cpu":
        return
    require_torch()
    import torch

    if not torch.cuda.is_available():
        raise InstallationError("`device` cuda: torch sees no GPU", "use cpu, or install a driver and torch for CUDA")


def calibrate(
    model: Model,
    every: NDArray[np.int32],
    name: str,
    candidates: Sequence[str],
    progress: Callable[[int, int, str], None] | None,
    tell: Callable[[str], None],
    device: str = "cpu",
) -> Calibration:
    """Runs windows of token ids int32 (count, tokens) through the uncompressed model, but those that are held out.

    name: what they are of, for a person; candidates: names of the codecs that a plan may choose, to try on every
    matrix; device: "cpu", or "cuda", where it computes. InstallationError without torch."""
    require_torch()
    import torch

    from mobile_bundle.calibrate.device import ready
    from mobile_bundle.calibrate.profile import profile_model
    from mobile_bundle.calibrate.threads import one_thread_each

    held = np.arange(len(every)) % _HELD_OUT == _HELD_OUT // 2
    windows, held_out = (every[~held], every[held]) if held.any() else (every, every)
    note = f"calibrated on {windows.shape[0]} windows of {windows.shape[1]} tokens of {name}"
    tell(note)
    place = torch.device(device)
    with one_thread_each(place), ready(place):
        profile = profile_model(model, windows, held_out, candidates, progress, place)
    return Calibration(windows, held_out, profile, note, device)
