"""What calibration tells a codec about one matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Stats:
    """hessian: float32 (columns, columns), the mean of x x^T over the calibration tokens' inputs x, or None (identity).
    row_weights: float32 (rows,), how much the loss minds an error of each output (mean squared gradient), or None.
    codebook: int8 (entries, stride), the shared codebook of the matrix's kind (VECTOR alone), or None; codebook_step:
    float32 (1,), what one of its codes is worth in a row whose root mean square is 1."""

    hessian: NDArray[np.float32] | None = None
    row_weights: NDArray[np.float32] | None = None
    codebook: NDArray[np.int8] | None = None
    codebook_step: NDArray[np.float32] | None = None
