"""Packed weights of every codec that operators compute with."""

from __future__ import annotations

import torch
from mobile_bundle.codecs import codec_by_name
from mobile_bundle.lower.encode import encode_weight

CODECS = (
    "raw",
    "affine-2bit",
    "affine-2bit-g32-sym",
    "affine-3bit",
    "affine-3bit-g32-asym",
    "affine-4bit",
    "affine-4bit-g128-asym",
    "affine-5bit",
    "affine-6bit-g32-asym",
    "sign-1bit",
    "affine-4bit-g32-e4m4",
    "trellis-2bit-g64",
    "trellis-2.5bit",
    "trellis-3bit",
    "affine-8bit",
    "bitnet",
    "bitnet-row",
    "bitnet-1.25bit",
    "bitnet-1.25bit-row",
    "vptq-2bit",
    "vptq-v6-b8",
    "vptq-v8-b8-r8-o3",
)


def random_weight(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


def packed(codec: str, rows: int, columns: int) -> torch.Tensor:
    return encode_weight(random_weight(rows, columns), codec_by_name(codec)).blob
