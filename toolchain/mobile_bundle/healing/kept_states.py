"""What the original's head sees of the training text, kept in memory: text that is read several times is computed by
the original once."""

from __future__ import annotations

import math

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
    """count: different sequences of the training text; length: tokens of each. Nothing is kept before make_room.
    Sequences that come once the room is full are computed every time."""

    def __init__(self, original: Original, count: int, length: int) -> None:
        self._original, self._shape = original, (length, original.head.shape[1])
        self._places = np.full(count, -1, np.int64)  # in _kept
        self._used = 0
        self._kept: Tensor | None = None

    def make_room(self, room: int) -> None:
        """room: bytes that may be filled."""
        head = self._original.head
        count = min(len(self._places), max(room, 0) // (head.dtype.itemsize * math.prod(self._shape)))
        self._kept = torch.empty((count, *self._shape), dtype=head.dtype, device=head.device) if count else None

    def of(self, chosen: NDArray[np.int64], tokens: Tensor) -> Tensor:
        """(sequences, tokens, hidden) of the sequences with these numbers; in the head's dtype where they are kept."""
        if self._kept is None:
            return self._original.hidden(tokens)
        places = self._places[chosen]
        read = _few_sizes(np.flatnonzero(places < 0), len(chosen))
        if len(read) == 0:
            return self._kept[self._on_device(places)]
        found = self._original.hidden(tokens if len(read) == len(chosen) else tokens[self._on_device(read)])
        self._keep(chosen[read], found)
        if len(read) == len(chosen):
            return found
        whole = self._kept[self._on_device(np.maximum(places, 0))]
        whole[self._on_device(read)] = found.to(whole.dtype)
        return whole

    def _keep(self, numbers: NDArray[np.int64], found: Tensor) -> None:
        """found: of the sequences with these numbers, in their order."""
        assert self._kept is not None
        _, first = np.unique(numbers, return_index=True)
        new = first[self._places[numbers[first]] < 0][: len(self._kept) - self._used]
        if len(new):
            places = np.arange(self._used, self._used + len(new))
            self._kept[self._on_device(places)] = found[self._on_device(new)].to(self._kept.dtype)
            self._places[numbers[new]] = places
            self._used += len(new)

    def _on_device(self, numbers: NDArray[np.int64]) -> Tensor:
        """Without waiting for what the device still computes."""
        device, found = self._original.head.device, torch.from_numpy(numbers)
        return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found


def _few_sizes(missing: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Places of a batch of `count` to compute, in order: none, a quarter, or all, with the missing ones among them.
    Compiled code is made for a size, so there must be few."""
    quarter = -(-count // 4)
    if not len(missing) or len(missing) > quarter:
        return np.arange(count if len(missing) else 0)
    others = np.setdiff1d(np.arange(count), missing)
    return np.sort(np.concatenate([missing, others[: quarter - len(missing)]]))
