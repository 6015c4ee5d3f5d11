"""Sizes as people write them."""

from __future__ import annotations

import re

from mobile_bundle.errors import ArgumentError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def byte_size(size: int | str) -> int:
    """Bytes of a size: a number of them, or "480MB", "1.5GB", "400MiB". ArgumentError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", str(size).strip())
    if not match or match[2].upper() not in _UNITS:
        raise ArgumentError(f"{size!r}: must be a size, such as 480MB, 1.5GB or 400MiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])
