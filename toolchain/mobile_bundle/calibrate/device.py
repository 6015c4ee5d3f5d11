"""Where calibration computes: on the processor, or on a GPU by torch. Everything else of it knows a torch.device."""

from __future__ import annotations

import torch
from torch import Tensor

from mobile_bundle.codecs.matrices import Matrix

CPU = torch.device("cpu")


def is_gpu(device: torch.device) -> bool:
    """Whether it is another processor than this one."""
    return device.type != "cpu"


def for_codecs(matrix: Tensor) -> Matrix:
    """The matrix as coding takes it (codecs/matrices.py): a tensor where it lies on a GPU, else an array."""
    return matrix if is_gpu(matrix.device) else matrix.numpy()
