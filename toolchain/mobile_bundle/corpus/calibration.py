"""The text that calibration runs over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.corpus.text import read_text
from mobile_bundle.corpus.windows import token_windows
from mobile_bundle.files.disk import write_file
from mobile_bundle.files.work_folder import scratch_folder
from mobile_bundle.native.tokenizer import Tokenizer
from mobile_bundle.tokenizer import CompiledTokenizer

CONTEXT = 1024
WINDOWS = 48


def calibration_windows(
    tokenizer: CompiledTokenizer, text: Path, context: int, windows: int = WINDOWS
) -> NDArray[np.int32]:
    """Token ids int32 (at most `windows`, min(context, 1024)) from the start of the text. context: that of the model's
    training.

    UserError for a text that cannot be read or is shorter than one window."""
    with scratch_folder() as directory:
        path = directory / "tokenizer.bin"
        write_file(path, bytes(tokenizer.data))
        opened = Tokenizer(path)
        try:
            return token_windows(opened, tokenizer.bos, read_text(text), min(context, CONTEXT), windows)
        finally:
            opened.close()
