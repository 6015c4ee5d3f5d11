"""What a process does that tries candidates (trials.py). It has no need of torch, which takes seconds to load."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.propagation import Ordered
from mobile_bundle.codecs.registry import try_kind

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SharedMatrix:
    """A square float32 matrix of `columns` columns, in memory that other processes open by this path."""

    path: str
    columns: int

    def read(self) -> Floats:
        """The very memory, which stays as long as the array."""
        with open(self.path, "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(memory, np.float32).reshape(self.columns, self.columns)


def try_shared(
    kind: Sequence[str],
    weight: Floats,
    order: NDArray[np.intp],
    hessian: SharedMatrix,
    damped: SharedMatrix,
    factor: SharedMatrix,
) -> dict[str, Floats]:
    """registry.try_kind, with the parts of its Ordered."""
    return try_kind(kind, weight, Ordered(hessian.read(), order, damped.read(), factor.read()))
