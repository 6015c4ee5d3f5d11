"""What calibration tells a codec about one matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.matrices import Matrix, times


@dataclass(frozen=True)
class Stats:
    """hessian: float32 (columns, columns), the mean of x x^T over the calibration tokens' inputs x, or None (identity).
    An array, or a tensor on the device that the products of coding are to run on; so is drift.
    row_weights: float32 (rows,), how much the loss minds an error of each output (mean squared gradient), or None.
    codebook: int8 (entries, stride), the shared codebook of the matrix's kind (VECTOR alone), or None; codebook_step:
    float32 (1,), what one of its codes is worth in a row whose root mean square is 1.
    drift: float32 (columns, columns), or None: what the coded layers before this one have done to its inputs. The best
    weights for the inputs as they are now are W + W @ drift (calibrate/walk.py)."""

    hessian: Matrix | None = None
    row_weights: NDArray[np.float32] | None = None
    codebook: NDArray[np.int8] | None = None
    codebook_step: NDArray[np.float32] | None = None
    drift: Matrix | None = None

    def target(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """What a codec should come near: float32 (rows, columns), of the weight's shape."""
        return weight if self.drift is None else weight + times(weight, self.drift)
