"""Our tensors as a checkpoint's: what reading.py does, the other way round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.models.spec import TensorSpec

Floats = NDArray[np.float32]


def stored_tensors(tensors: Sequence[TensorSpec], values: Mapping[str, Floats]) -> dict[str, Floats]:
    """By the checkpoint's names and in its shapes: matrices (rows, columns), vectors (size,), a convolution's taps
    (channels, 1, taps).

    values: float32 of every tensor that has a source, by our name: matrices (rows, columns), vectors (size,)."""
    out: dict[str, Floats] = {}
    for tensor in tensors:
        if not tensor.source:
            continue
        found = _stored(tensor, values[tensor.name])
        if tensor.source_rows:
            whole = out.setdefault(tensor.source, np.zeros((tensor.source_rows, tensor.columns), np.float32))
            whole[tensor.first_row : tensor.first_row + tensor.rows] = found
        else:
            out[tensor.source] = np.ascontiguousarray(found)
    return out


def _stored(tensor: TensorSpec, value: Floats) -> Floats:
    if tensor.taps:
        return value.reshape(tensor.taps, -1).T[:, None, :]
    if tensor.times != 1:
        value = value / np.float32(tensor.times)
    if tensor.plus:
        value = value - np.float32(tensor.plus)
    if not tensor.pairs:
        return value
    # rows half a head apart become neighbours again
    heads = value.reshape(-1, 2, tensor.pairs // 2, *value.shape[1:])
    return np.swapaxes(heads, 1, 2).reshape(value.shape)
