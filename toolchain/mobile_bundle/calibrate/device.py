"""Where calibration computes: on the processor, or on a GPU by torch. Everything else of it knows a torch.device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mobile_bundle.codecs.matrices import Matrix
from mobile_bundle.errors import ResumableError

CPU = torch.device("cpu")


def is_gpu(device: torch.device) -> bool:
    """Whether it is another processor than this one."""
    return device.type != "cpu"


@contextmanager
def ready(device: torch.device) -> Iterator[None]:
    """For the work inside, by several threads. ResumableError where a GPU has too little memory for it."""
    try:
        if is_gpu(device):  # torch loads its solvers at their first call, and fails where two threads make it at once
            one = torch.eye(2, device=device)
            torch.linalg.cholesky_ex(one)
            torch.linalg.solve_triangular(one, one, upper=False)
        yield
    except torch.OutOfMemoryError as error:
        raise ResumableError(
            "`device` cuda: the GPU has too little memory", "end other programs that use it, or take cpu"
        ) from error


def rounded(x: Tensor) -> Tensor:
    """A factor of a float32 product: on a GPU rounded to bfloat16, as a processor with units for it does
    (native/products.py), so that a plan is the same. The sums stay float32."""
    return x.bfloat16().float() if is_gpu(x.device) else x


def for_codecs(matrix: Tensor) -> Matrix:
    """The matrix as coding takes it (codecs/matrices.py): a tensor where it lies on a GPU, else an array."""
    return matrix if is_gpu(matrix.device) else matrix.numpy()
