"""Bundles whose weights are valid and too large: the engine opens them, and their arithmetic overflows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from mobile_bundle.codecs.blob import HEADER_BYTES
from mobile_bundle.container.weights import WeightsReader


def overflowing(bundle: Path, out: Path, tensor: str = "norm.weight", row: int | None = None) -> Path:
    """A copy of the bundle with values of 3e38 in a float tensor (raw or f32), or in one row of it. The checksums are
    as they were: opening a bundle does not read every blob."""
    shutil.copytree(bundle, out)
    with WeightsReader(out / "weights.ptd") as weights:
        (entry,) = (entry for entry in weights.entries if entry.name == tensor)
        size = (entry.header.blob_bytes - HEADER_BYTES) // (entry.header.rows * entry.header.columns)
    large = np.float32(3e38).tobytes()[-size:]  # the upper half of a float32 is a bfloat16
    begin, count = entry.offset + HEADER_BYTES, entry.header.rows * entry.header.columns
    if row is not None:
        begin, count = begin + row * entry.header.columns * size, entry.header.columns
    with (out / "weights.ptd").open("r+b") as file:
        file.seek(begin)
        file.write(large * count)
    return out
