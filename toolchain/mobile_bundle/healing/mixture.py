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
        self._parts = [part.sequences for part in parts]
        self._first = parts[0].weight / sum(part.weight for part in parts)
        self._seed = seed
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}

    def sequences(self, begin: int, end: int) -> Tokens:
        """Numbers begin..end-1 of the endless sequence of sequences, int32 (end - begin, tokens)."""
        return np.stack([self._sequence(number) for number in range(begin, end)])

    def _sequence(self, number: int) -> Tokens:
        before = math.floor(number * self._first)  # of the first part
        part = 0 if math.floor((number + 1) * self._first) > before else 1
        sequences = self._parts[part]
        round_, at = divmod(before if part == 0 else number - before, len(sequences))
        chosen: Tokens = sequences[self._order(part, round_)[at]]
        return chosen

    def _order(self, part: int, round_: int) -> NDArray[np.int64]:
        if (part, round_) not in self._orders:
            for other in [key for key in self._orders if key[0] == part and key[1] < round_ - 1]:
                del self._orders[other]
            random = np.random.default_rng([self._seed, part, round_])
            self._orders[part, round_] = random.permutation(len(self._parts[part]))
        return self._orders[part, round_]
