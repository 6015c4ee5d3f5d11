"""Prepares calibration: the text and the profile of the uncompressed model. Says clearly when torch is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.corpus.text import DEFAULT_TEXT
from mobile_bundle.errors import InstallationError
from mobile_bundle.models import Model
from mobile_bundle.tokenizer import CompiledTokenizer

if TYPE_CHECKING:
    from mobile_bundle.calibrate.profile import Profile


@dataclass(frozen=True)
class Calibration:
    """What calibration found. windows: token ids int32 (count, tokens); profile: of the uncompressed model on them;
    note: for the manifest."""

    windows: NDArray[np.int32]
    profile: Profile
    note: str


def calibrate(
    model: Model,
    tokenizer: CompiledTokenizer,
    text: Path | None,
    progress: Callable[[int, int, str], None] | None,
    tell: Callable[[str], None],
) -> Calibration:
    """Runs the text through the uncompressed model. text: None for the one that ships with the tool. UserError if torch
    is missing or the text cannot be used."""
    if importlib.util.find_spec("torch") is None:
        raise InstallationError(
            "calibration and budgets need torch", "pip install '.[calibrate]' in a checkout of mobile-bundle"
        )
    from mobile_bundle.calibrate.profile import profile_model
    from mobile_bundle.corpus.calibration import calibration_windows

    windows = calibration_windows(tokenizer, text or DEFAULT_TEXT, model.spec.context)
    name = (
        text.name
        if text not in (None, DEFAULT_TEXT)
        else "the text that ships with the tool (English Wikipedia; --calibration FILE for your own)"
    )
    note = f"calibrated on {windows.shape[0]} windows of {windows.shape[1]} tokens of {name}"
    tell(note)
    return Calibration(windows, profile_model(model, windows, progress), note)
