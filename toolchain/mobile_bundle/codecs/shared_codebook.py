"""A codebook as the planner and the builder see it: a tensor that the matrices of one kind may share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.blob import BlobHeader
from mobile_bundle.codecs.source import Floats
from mobile_bundle.codecs.stats import Stats


@dataclass(frozen=True)
class TrainedCodebook:
    """codes: int8 (entries, stride), as they are stored; step: float32 (1,), what one code is worth in a row whose root
    mean square is 1. Both are handed to the codec as Stats.codebook and Stats.codebook_step."""

    codes: NDArray[np.int8]
    step: NDArray[np.float32]


class Codebook(Protocol):
    """What the codec's own file knows of its codebook."""

    @property
    def key(self) -> str:
        """What tells it from other layouts in the name of the shared tensor, such as "v4.b8.r0" (packed_formats.h)."""
        ...

    @property
    def header(self) -> BlobHeader:
        """Of the blob that it is as a tensor of its own."""
        ...

    @property
    def samples_wanted(self) -> int:
        """Vectors to train it on."""
        ...

    def sample(self, weight: Floats, stats: Stats, per_column: Floats, count: int) -> tuple[Floats, Floats]:
        """At most `count` vectors of a matrix, float32 (n, length), and how much each one counts, float32 (n,).

        weight: float32 (rows, columns); per_column: float32 (columns,), importance of an error there."""
        ...

    def train(self, points: Floats, weights: Floats) -> TrainedCodebook:
        """points: float32 (n, length); weights: float32 (n,), their mean 1."""
        ...
