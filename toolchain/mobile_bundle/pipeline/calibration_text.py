"""What calibration reads: a given text, the one that ships, one that the model writes, or the last two mixed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.corpus.calibration import CONTEXT, WINDOWS, calibration_windows
from mobile_bundle.corpus.own_text import OwnText, own_text
from mobile_bundle.corpus.text import DEFAULT_TEXT
from mobile_bundle.errors import InputError
from mobile_bundle.files.disk import write_file
from mobile_bundle.files.work_folder import scratch_folder
from mobile_bundle.native.engine import Model as NativeModel
from mobile_bundle.native.tokenizer import Tokenizer
from mobile_bundle.pipeline.pool import PartPool
from mobile_bundle.pipeline.request import DEFAULT, SELF, Listener
from mobile_bundle.pipeline.source import Source
from mobile_bundle.pipeline.weights import write_weights
from mobile_bundle.planning.assignment import assign_codecs
from mobile_bundle.planning.exact import lossless_codecs
from mobile_bundle.planning.recipe import named_recipe

SHIPPED = "the text that ships with the tool (English Wikipedia)"
_SHARE = 6
"""Of a mixed text, one window in so many is the model's own. Half of own text costs a plan much of its quality on
other text (docs/RECIPES.md)."""
_WRITES_WITH = named_recipe("affine-8bit")
"""What the model is coded with to write, but for matrices that lie on a grid: half the bytes of bf16, and so twice the
speed."""


@dataclass(frozen=True)
class CalibrationText:
    """windows: token ids int32 (count, tokens); name: what they are of, for a person."""

    windows: NDArray[np.int32]
    name: str


def calibration_text(asked: Path | str, source: Source, pool: PartPool, listener: Listener) -> CalibrationText:
    """asked: a text, SELF, or DEFAULT, which for a chat model is its own text and the one that ships, for others the
    latter alone. pool: codes the model, so that it can write.

    UserError for a text that cannot be used, or for a model that writes nothing of use, if that was asked for."""
    context = min(source.model.spec.context, CONTEXT)
    if asked == SELF:
        own = _written(source, pool, context, listener)
        return CalibrationText(own.windows, _name(own))
    if asked != DEFAULT:
        path = Path(asked)
        return CalibrationText(calibration_windows(source.tokenizer, path, context), path.name)
    shipped = calibration_windows(source.tokenizer, DEFAULT_TEXT, context)
    if not source.tokenizer.has_chat:
        return CalibrationText(shipped, SHIPPED)
    try:
        own = _written(source, pool, context, listener)
    except InputError as error:
        listener.tell(f"{error.message}: calibrated on {SHIPPED} alone")
        return CalibrationText(shipped, SHIPPED)
    own = replace(own, windows=own.windows[: WINDOWS // _SHARE])
    return CalibrationText(_mixed(own.windows, shipped), f"{_name(own)}, and of {SHIPPED}")


def _written(source: Source, pool: PartPool, context: int, listener: Listener) -> OwnText:
    with scratch_folder() as folder:
        weights, tokens = folder / "weights.ptd", folder / "tokenizer.bin"
        write_file(tokens, bytes(source.tokenizer.data))
        assignment = assign_codecs(source.model.tensors, source.spec, _WRITES_WITH) | lossless_codecs(source.model)
        write_weights(pool, source.spec, assignment, weights, listener.stage("coding the model that writes"))
        tokenizer = Tokenizer(tokens)
        try:
            with NativeModel(weights) as model:
                return own_text(model, tokenizer, context, listener.stage("writing a calibration text"))
        finally:
            tokenizer.close()


def _name(own: OwnText) -> str:
    kind = "conversations and documents" if own.conversations else "documents"
    return f"{len(own.windows)} windows of {kind} that the model wrote itself ({', '.join(own.languages)})"


def _mixed(own: NDArray[np.int32], shipped: NDArray[np.int32]) -> NDArray[np.int32]:
    """At most WINDOWS windows, the own ones spread evenly among the others: profile.py takes gradients of the first
    ones."""
    others = iter(shipped[: WINDOWS - len(own)])
    every = WINDOWS // len(own)
    mixed: list[NDArray[np.int32]] = []
    for window in own:
        mixed += [window, *itertools.islice(others, every - 1)]
    return np.stack([*mixed, *others])
