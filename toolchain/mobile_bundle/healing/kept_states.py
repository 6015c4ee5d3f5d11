"""What the original's head sees of the training text, kept in memory: text that is read several times is computed by
the original once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobile_bundle.healing.decoders import Original

_PART = 0.7
"""Of the memory that is free once training runs."""


def free_memory(device: torch.device) -> int:
    """Bytes that may be filled on a GPU. None on a CPU: there a run that goes on must have the bytes of one that was
    not killed, and a sequence's values differ in their last bits with the others of its batch."""
    return int(torch.cuda.mem_get_info(device)[0] * _PART) if device.type == "cuda" else 0


class KeptStates:
    """count: different sequences of the training text. room: bytes that may be filled; asked after the first step,
    when it is known what training itself needs."""

    def __init__(self, original: Original, count: int, room: Callable[[], int]) -> None:
        self._original, self._room = original, room
        self._known = np.zeros(count, np.bool_)
        self._kept: Tensor | None = None
        self._calls = 0

    def of(self, chosen: NDArray[np.int64], tokens: Tensor) -> Tensor:
        """(sequences, tokens, hidden) of the sequences with these numbers; in the head's dtype where they are kept."""
        if self._kept is not None and self._known[chosen].all():
            return self._kept[torch.from_numpy(chosen).to(self._kept.device)]
        found = self._original.hidden(tokens)
        self._calls += 1
        if self._calls == 2:
            self._kept = self._memory(found)
        if self._kept is not None:
            self._kept[torch.from_numpy(chosen).to(self._kept.device)] = found.to(self._kept.dtype)
            self._known[chosen] = True
        return found

    def _memory(self, found: Tensor) -> Tensor | None:
        """For all sequences; None where that takes too much."""
        dtype, shape = self._original.head.dtype, (len(self._known), *found.shape[1:])
        if dtype.itemsize * shape[0] * shape[1] * shape[2] > self._room():
            return None
        return torch.empty(shape, dtype=dtype, device=found.device)
