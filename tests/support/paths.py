"""Where things are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
EXAMPLE = ROOT / "examples/models/wiki-6m"
DATA = ROOT / "tests/data"
STORIES = DATA / "stories260k"
VALIDATION_TEXT = DATA / "val.txt.xz"
"""Of documents that the example model was not trained on. Some 35,000 of its tokens."""
