"""Which sequences a step reads: a function of its number alone, so that a run that goes on needs no other position.

Sources take turns by their weights; each is read in an order shuffled anew for every round, so that no sequence comes
twice before all came once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Part:
    """sequences: token ids int32 (count, tokens), at least one; weight: its share of what is read, above 0."""

    sequences: Tokens
    weight: float


class Mixture:
    """parts: one or two. seed: of the order."""

    def __init__(self, parts: Sequence[Part], seed: int) -> None:
        self._sizes = [len(part.sequences) for part in parts]
        self._sequences = np.concatenate([part.sequences for part in parts])
        self._first = parts[0].weight / sum(part.weight for part in parts)
        self._seed = seed
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}

    def __len__(self) -> int:
        """Different sequences."""
        return len(self._sequences)

    def rounds(self, places: int) -> float:
        """How often the part that is read most has been read after so many places of the endless order."""
        first = places * self._first
        return max(first / self._sizes[0], *((places - first) / size for size in self._sizes[1:]), 0.0)

    def sequences(self, begin: int, end: int) -> Tokens:
        """Those at places begin..end-1 of the endless order, int32 (end - begin, tokens)."""
        return self.read(self.chosen(begin, end))

    def chosen(self, begin: int, end: int) -> NDArray[np.int64]:
        """Which sequences are read there: numbers below len(), (end - begin)."""
        return np.array([self._chosen(place) for place in range(begin, end)], np.int64)

    def read(self, chosen: NDArray[np.int64]) -> Tokens:
        """The sequences of these numbers, int32 (count, tokens)."""
        return self._sequences[chosen]

    def _chosen(self, place: int) -> int:
        before = math.floor(place * self._first)  # of the first part
        part = 0 if math.floor((place + 1) * self._first) > before else 1
        round_, at = divmod(before if part == 0 else place - before, self._sizes[part])
        return int(self._order(part, round_)[at]) + part * self._sizes[0]

    def _order(self, part: int, round_: int) -> NDArray[np.int64]:
        if (part, round_) not in self._orders:
            for other in [key for key in self._orders if key[0] == part and key[1] < round_ - 1]:
                del self._orders[other]
            random = np.random.default_rng([self._seed, part, round_])
            self._orders[part, round_] = random.permutation(self._sizes[part])
        return self._orders[part, round_]
