"""Matrices of calibrated coding: NumPy arrays, or torch tensors on a GPU, as calibration hands them over.

What costs time in coding is products and factors of matrices as large as a Hessian. They are computed where the Hessian
lies. Everything else (scales, and the searches in the C library) runs on the processor, whichever the device: a few
columns at a time come over, are rounded, and their errors go back. So a code is chosen by one piece of code, and a GPU
changes a choice only where float rounding does (docs/RECIPES.md).

`Matrix` is one of the two. With arrays nothing here copies anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.source import Floats

Matrix = Any
"""NDArray or torch.Tensor."""


def on_host(matrix: Matrix) -> Floats:
    """A float32 matrix as an array: itself, or a copy of a tensor."""
    found: Floats = matrix if isinstance(matrix, np.ndarray) else matrix.detach().to("cpu", copy=True).numpy()
    return found


def beside(array: NDArray[Any], matrix: Matrix) -> Matrix:
    """The array where `matrix` lies: itself, or a tensor with a copy of it."""
    if isinstance(matrix, np.ndarray):
        return array
    import torch

    given = torch.from_numpy(np.ascontiguousarray(array))
    return matrix.new_empty(given.shape, dtype=given.dtype).copy_(given)


def times(rows: Floats, matrix: Matrix) -> Floats:
    """rows @ matrix, float32, computed where the matrix lies."""
    return on_host(beside(rows, matrix) @ matrix)


def is_finite(matrix: Matrix) -> bool:
    """Whether every value is."""
    return bool(np.isfinite(matrix).all() if isinstance(matrix, np.ndarray) else matrix.isfinite().all())
