"""Ternary projections as matrix sources of exactly three values, -s, 0 and s.

What a checkpoint can hold (transformers/integrations/bitnet.py, quantization_config.quant_method "bitnet"):
  packed    uint8 (rows / 4, columns) and `weight_scale`: bits 2i..2i+1 of packed row j are t + 1 of row i * rows/4 + j.
            linear_class "autobitlinear" multiplies by weight_scale, "bitlinear" (the default) divides by it.
  unpacked  the values t in bf16, f16 or f32, and `weight_scale` as above (quantization_mode "offline").
  master    float weights that the model rounds as it runs (mode "online", or a BitNet model without the section):
            m = max(mean|W|, 1e-5), t = clip(round(w * (1/m)), -1, 1), s = 1 / (1/m), as WeightQuant does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.ternary import absmean_scale
from mobile_bundle.errors import InputError, UnsupportedError
from mobile_bundle.models.checkpoint import Checkpoint, CheckpointTensor

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class TernaryScheme:
    """How a checkpoint stores its ternary projections."""

    online: bool
    divide: bool  # by weight_scale, rather than multiply


def ternary_scheme(config: dict[str, Any], is_bitnet: bool) -> TernaryScheme | None:
    """The scheme, or None for a checkpoint of plain weights; quantised.py has refused every other quantisation.
    UserError for kinds of BitNet's that are not read."""
    section = config.get("quantization_config")
    if not isinstance(section, dict):
        return TernaryScheme(online=True, divide=False) if is_bitnet else None
    listed = section.get("modules_to_not_convert") or []
    for name in listed if isinstance(listed, list) else [listed]:
        if name not in ("lm_head", "embed_tokens"):
            raise UnsupportedError(
                f"quantization_config leaves {name} unquantised; only whole ternary models are supported"
            )
    if section.get("use_rms_norm"):
        raise UnsupportedError("quantization_config.use_rms_norm is not supported")
    linear, mode = section.get("linear_class", "bitlinear"), section.get("quantization_mode", "offline")
    if linear not in ("bitlinear", "autobitlinear") or mode not in ("offline", "online"):
        raise UnsupportedError(f"quantization_config: linear_class {linear!r} in mode {mode!r} is not supported")
    return TernaryScheme(online=linear == "autobitlinear" and mode == "online", divide=linear == "bitlinear")


def ternary_source(
    checkpoint: Checkpoint, scheme: TernaryScheme, name: str, shape: tuple[int, int]
) -> PackedTernary | ScaledTensor | MasterTernary:
    """The projection `name` of the logical shape (rows, columns)."""
    if checkpoint.dtype(name) == "U8":
        return PackedTernary(checkpoint, name, shape, _stored_scale(checkpoint, scheme, name))
    tensor = checkpoint.tensor(name, shape)
    if scheme.online:
        return MasterTernary(tensor)
    return ScaledTensor(tensor, _stored_scale(checkpoint, scheme, name))


def ternary_bias(
    checkpoint: Checkpoint, scheme: TernaryScheme, name: str, size: int
) -> CheckpointTensor | ScaledTensor:
    """A projection's bias. Offline, AutoBitLinear adds it before it multiplies by weight_scale."""
    tensor = checkpoint.tensor(name, (size,))
    if scheme.online or scheme.divide:
        return tensor
    return ScaledTensor(tensor, _stored_scale(checkpoint, scheme, name.removesuffix("bias") + "weight"))


class PackedTernary:
    """Four rows a byte. scale: what a code of 1 stands for."""

    def __init__(self, checkpoint: Checkpoint, name: str, shape: tuple[int, int], scale: np.float32) -> None:
        self.rows, self.columns = shape
        if self.rows % 4:
            raise InputError(f"tensor {name} is packed four rows a byte, but config.json asks for {self.rows} rows")
        self._checkpoint, self._name, self._scale = checkpoint, name, scale
        checkpoint.read_bytes(name, (self.rows // 4, self.columns), 0, 0)  # checks the shape now, not in the middle

    def chunks(self, chunk_rows: int) -> Iterator[Floats]:
        for begin in range(0, self.rows, chunk_rows):
            yield self._rows(begin, min(begin + chunk_rows, self.rows))

    def _rows(self, begin: int, end: int) -> Floats:
        quarter = self.rows // 4
        out = np.empty((end - begin, self.columns), np.float32)
        for i in range(4):  # the quarter of the matrix whose codes are bits 2i and 2i + 1
            first, last = max(begin, i * quarter), min(end, (i + 1) * quarter)
            if first >= last:
                continue
            packed = self._checkpoint.read_bytes(
                self._name, (quarter, self.columns), first - i * quarter, last - i * quarter
            )
            codes = (packed >> np.uint8(2 * i)) & np.uint8(3)
            if codes.max() > 2:
                raise InputError(f"tensor {self._name} holds a code that is not ternary; the checkpoint is damaged")
            part = out[first - begin : last - begin]
            np.subtract(codes, np.float32(1.0), out=part, dtype=np.float32)
            part *= self._scale
        return out


class ScaledTensor:
    """A float tensor times a number."""

    def __init__(self, tensor: CheckpointTensor, scale: np.float32) -> None:
        self.rows, self.columns = tensor.rows, tensor.columns
        self._tensor, self._scale = tensor, scale

    def chunks(self, chunk_rows: int) -> Iterator[Floats]:
        for chunk in self._tensor.chunks(chunk_rows):
            yield chunk * self._scale


class MasterTernary:
    """Float weights rounded to three values. The mean is taken in one pass, once. tensor: before it is rounded."""

    def __init__(self, tensor: CheckpointTensor) -> None:
        self.rows, self.columns = tensor.rows, tensor.columns
        self.tensor = tensor
        self._scales: tuple[Floats, Floats] | None = None
        self._lock = threading.Lock()

    def chunks(self, chunk_rows: int) -> Iterator[Floats]:
        scale, inverse = self._measure(chunk_rows)
        for chunk in self.tensor.chunks(chunk_rows):
            out = chunk * inverse
            np.rint(out, out=out)
            np.clip(out, -1.0, 1.0, out=out)
            out *= scale
            yield out

    def _measure(self, chunk_rows: int) -> tuple[Floats, Floats]:
        with self._lock:
            if self._scales is None:
                total = sum(
                    float(np.abs(chunk).sum(axis=1).sum(dtype=np.float64)) for chunk in self.tensor.chunks(chunk_rows)
                )
                self._scales = absmean_scale(np.array([total / (self.rows * self.columns)]))
            return self._scales


def _stored_scale(checkpoint: Checkpoint, scheme: TernaryScheme, name: str) -> np.float32:
    key = f"{name}_scale"
    shape = checkpoint.shape(key)
    if shape not in ((), (1,), (1, 1)):
        raise UnsupportedError(f"tensor {key} has the shape {list(shape)}; one scale per tensor is supported")
    value = checkpoint.scalar(key)
    if scheme.divide:
        value = np.float32(1.0) / value if value else np.float32(np.inf)
    if not np.isfinite(value) or value == 0:
        raise InputError(f"tensor {key} is not a usable scale; the checkpoint is damaged")
    return np.float32(value)
