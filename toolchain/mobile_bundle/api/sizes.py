"""Sizes as people write them."""

from __future__ import annotations

import re
from decimal import Decimal

from mobile_bundle.errors import ArgumentError

LEAST_WITHOUT_UNIT = 100_000
"""Bytes. A smaller number in a text without a unit is a slip: somebody meant megabytes."""
MOST = 10**18
"""Bytes. Nothing that is measured here has as many."""
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def byte_size(size: int | str) -> int:
    """Bytes of a size: a number of them, or "480MB", "1.5GB", "400MiB"; a text without a unit is at least
    LEAST_WITHOUT_UNIT. ArgumentError for anything else."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", str(size).strip())
    if not match or match[2].upper() not in _UNITS:
        raise ArgumentError(f"{size!r}: must be a size, such as 480MB, 1.5GB or 400MiB")
    count = int(Decimal(match[1]) * _UNITS[match[2].upper()])
    if count > MOST:
        raise ArgumentError(f"{str(size)[:40]!r}: must be a size that a device can have")
    if isinstance(size, str) and not match[2] and count < LEAST_WITHOUT_UNIT:
        raise ArgumentError(f"{size!r}: that is {count:,} bytes; write the unit, such as {match[1]}MB")
    return count
