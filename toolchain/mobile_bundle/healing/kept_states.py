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
    when it is known what training itself needs. Sequences that come once it is full are computed every time."""

    def __init__(self, original: Original, count: int, room: Callable[[], int]) -> None:
        self._original, self._room = original, room
        self._places = np.full(count, -1, np.int64)  # in _kept
        self._used = 0
        self._kept: Tensor | None = None
        self._calls = 0

    def of(self, chosen: NDArray[np.int64], tokens: Tensor) -> Tensor:
        """(sequences, tokens, hidden) of the sequences with these numbers; in the head's dtype where they are kept."""
        places = self._places[chosen]
        missing = np.flatnonzero(places < 0)
        if len(missing) == 0 and self._kept is not None:
            return self._kept[self._on_device(places)]
        read = _in_quarters(missing, len(chosen))
        found = self._original.hidden(tokens if len(read) == len(chosen) else tokens[self._on_device(read)])
        self._calls += 1
        if self._calls == 2:
            self._kept = self._memory(found)
        self._keep(chosen[read], found)
        if self._kept is None or len(read) == len(chosen):
            return found
        whole = self._kept[self._on_device(np.maximum(places, 0))]
        whole[self._on_device(read)] = found.to(whole.dtype)
        return whole

    def _keep(self, numbers: NDArray[np.int64], found: Tensor) -> None:
        if self._kept is None:
            return
        new = np.flatnonzero(self._places[numbers] < 0)[: len(self._kept) - self._used]
        if len(new):
            places = np.arange(self._used, self._used + len(new))
            self._kept[self._on_device(places)] = found[self._on_device(new)].to(self._kept.dtype)
            self._places[numbers[new]] = places
            self._used += len(new)

    def _on_device(self, numbers: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(numbers).to(self._original.head.device)

    def _memory(self, found: Tensor) -> Tensor | None:
        """For as many sequences as there is room for; None where that is none."""
        dtype, each = self._original.head.dtype, found.shape[1:]
        count = min(len(self._places), self._room() // (dtype.itemsize * each.numel()))
        return torch.empty((count, *each), dtype=dtype, device=found.device) if count else None


def _in_quarters(missing: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """These places of a batch of `count`, and others up to the next quarter of it: compiled code is made for a size, so
    there must be few."""
    quarter = -(-count // 4)
    size = min(count, -(-len(missing) // quarter) * quarter)
    others = np.setdiff1d(np.arange(count), missing)
    return np.concatenate([missing, others[: size - len(missing)]])
