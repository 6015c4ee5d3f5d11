"""Prepares calibration: the text and the profile of the uncompressed model. Says clearly when torch is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import InstallationError
from mobile_bundle.models import Model

if TYPE_CHECKING:
    from mobile_bundle.calibrate.profile import Profile


@dataclass(frozen=True)
class Calibration:
    """What calibration found. windows: token ids int32 (count, tokens); profile: of the uncompressed model on them;
    note: for the manifest."""

    windows: NDArray[np.int32]
    profile: Profile
    note: str


def require_torch() -> None:
    """InstallationError without torch."""
    if importlib.util.find_spec("torch") is None:
        raise InstallationError("calibration and budgets need torch", "`make calibrate` in a checkout of mobile-bundle")


def calibrate(
    model: Model,
    windows: NDArray[np.int32],
    name: str,
    progress: Callable[[int, int, str], None] | None,
    tell: Callable[[str], None],
) -> Calibration:
    """Runs windows of token ids int32 (count, tokens) through the uncompressed model. name: what they are of, for a
    person. InstallationError without torch."""
    require_torch()
    from mobile_bundle.calibrate.profile import profile_model

    note = f"calibrated on {windows.shape[0]} windows of {windows.shape[1]} tokens of {name}"
    tell(note)
    return Calibration(windows, profile_model(model, windows, progress), note)
