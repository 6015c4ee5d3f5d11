"""Command-line options for the parameters that the library's messages name."""

from __future__ import annotations

import re

_OPTIONS = {
    "against": "--against",
    "calibration": "--calibration",
    "cluster": "--cluster",
    "context": "--context",
    "formats": "--formats",
    "jobs": "--jobs",
    "kv": "--kv",
    "lab": "--lab",
    "max_perplexity": "--max-perplexity",
    "max_ram": "--max-ram",
    "max_size": "--max-size",
    "min_speed": "--min-speed",
    "points": "--points",
    "pressure": "--pressure",
    "reps": "--reps",
    "save_baseline": "--save-baseline",
    "serial": "--serial",
    "threads": "--threads",
    "windows": "--windows",
    "work": "--work",
}


def with_options(text: str) -> str:
    """The text with `max_size` (a parameter in backticks) replaced by --max-size."""
    return re.sub(r"`(\w+)`", lambda found: _OPTIONS.get(found[1], found[0]), text)
