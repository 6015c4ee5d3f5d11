"""What a run of the tests has in common, in however many processes it runs (pytest-xdist)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FUZZ_SEED = 1
"""Where the fuzz targets start that are run as tests."""


def common_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder of this run of pytest, the same one in all its processes. Who writes there takes a lock."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder
