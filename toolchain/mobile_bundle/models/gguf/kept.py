"""GGML types that a packed format holds exactly: which format, and how a block comes apart into codes and scales.

A new packed format is a new row in _EXACT; codecs/kept.py proves each matrix when it is built. Block layouts are ggml's
(ggml-common.h, ggml-quants.c). "sym": w = d * code; "asym": w = d * code + m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.kept import PREFIX, Codes

Bytes = NDArray[np.uint8]
Halves = NDArray[np.float16]
Parts = tuple[NDArray[np.int16], Halves, Halves | None]
"""codes (blocks, values), whole numbers; d (blocks,); m (blocks,) or None."""

IQ4_NL_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int16)


@dataclass(frozen=True)
class Exact:
    """codec: name, of affine or sign codes; group: its columns per scale; split: blocks uint8 (n, bytes) to Parts."""

    codec: str
    group: int
    split: Callable[[Bytes], Parts]


def keep_codec(type_: str) -> str:
    """The codec that the recipe keep stores a matrix of that GGML type with; "" leaves it to the default recipe.

    BF16 is stored as it is. F16 and F32 hold more than bfloat16 does, and become 8 bits."""
    if type_ in _EXACT:
        return PREFIX + _EXACT[type_].codec
    return {"BF16": "raw", "F16": "affine-8bit", "F32": "affine-8bit"}.get(type_, "")


def has_codes(type_: str) -> bool:
    """Whether read_codes knows the type."""
    return type_ in _EXACT


def read_codes(rows: Bytes, type_: str, block_bytes: int) -> Codes:
    """rows: uint8 (n, bytes of a row) of that GGML type. ValueError for a code that the type does not have."""
    exact = _EXACT[type_]
    count = len(rows)
    codes, d, m = exact.split(rows.reshape(-1, block_bytes))
    repeats = codes.shape[1] // exact.group  # groups that share a block's scale
    return Codes(
        codes.reshape(count, -1).astype(np.float32),
        np.repeat(d, repeats).reshape(count, -1),
        None if m is None else np.repeat(m, repeats).reshape(count, -1),
    )


def _half(blocks: Bytes, at: int) -> Halves:
    """The fp16 number at that byte of every block."""
    halves: Halves = np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2")[:, 0].astype(np.float16)
    return halves


def _nibbles(blocks: Bytes, at: int) -> NDArray[np.int16]:
    """Sixteen bytes: the low nibbles are values 0..15, the high ones 16..31."""
    data = blocks[:, at : at + 16]
    return np.concatenate([data & np.uint8(15), data >> np.uint8(4)], axis=1).astype(np.int16)


def _fifth_bits(blocks: Bytes, at: int) -> NDArray[np.int16]:
    """Four bytes: bit i is bit 4 of value i, as 0 or 16."""
    bits = np.unpackbits(np.ascontiguousarray(blocks[:, at : at + 4]), axis=1, bitorder="little")
    return bits.astype(np.int16) << np.int16(4)


def _q4_0(blocks: Bytes) -> Parts:
    return _nibbles(blocks, 2) - np.int16(8), _half(blocks, 0), None


def _q4_1(blocks: Bytes) -> Parts:
    return _nibbles(blocks, 4), _half(blocks, 0), _half(blocks, 2)


def _q5_0(blocks: Bytes) -> Parts:
    return (_nibbles(blocks, 6) | _fifth_bits(blocks, 2)) - np.int16(16), _half(blocks, 0), None


def _q5_1(blocks: Bytes) -> Parts:
    return _nibbles(blocks, 8) | _fifth_bits(blocks, 4), _half(blocks, 0), _half(blocks, 2)


def _q8_0(blocks: Bytes) -> Parts:
    return np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.int16), _half(blocks, 0), None


def _iq4_nl(blocks: Bytes) -> Parts:
    return IQ4_NL_VALUES[_nibbles(blocks, 2)], _half(blocks, 0), None


def _q1_0(blocks: Bytes) -> Parts:
    bits = np.unpackbits(np.ascontiguousarray(blocks[:, 2:]), axis=1, bitorder="little")
    return bits.astype(np.int16) * np.int16(2) - np.int16(1), _half(blocks, 0), None


def _tq1_0(blocks: Bytes) -> Parts:
    """Base 3 in fractions of 256: 32 bytes of five values, 16 of five, 4 of four; value j of a byte comes j-th after
    values of whole runs of bytes."""
    digits = []
    for begin, end, values in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        powers = np.array([1, 3, 9, 27, 81][:values], np.uint8)
        shifted = blocks[:, None, begin:end] * powers[:, None]  # modulo 256
        digits.append((shifted.astype(np.int16) * np.int16(3) >> np.int16(8)).reshape(len(blocks), -1))
    return np.concatenate(digits, axis=1) - np.int16(1), _half(blocks, 52), None


def _tq2_0(blocks: Bytes) -> Parts:
    quarters = blocks[:, :64].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None]
    codes = (quarters & np.uint8(3)).reshape(len(blocks), -1).astype(np.int16)
    if codes.max() > 2:
        raise ValueError("it holds a code that is not ternary; the file is damaged")
    return codes - np.int16(1), _half(blocks, 64), None


_EXACT = {
    "Q4_0": Exact("affine-4bit-g32-sym", 32, _q4_0),
    "Q4_1": Exact("affine-4bit-g32-asym", 32, _q4_1),
    "Q5_0": Exact("affine-5bit-g32-sym", 32, _q5_0),
    "Q5_1": Exact("affine-5bit-g32-asym", 32, _q5_1),
    "Q8_0": Exact("affine-8bit-g32-sym", 32, _q8_0),
    "IQ4_NL": Exact("affine-8bit-g32-sym", 32, _iq4_nl),
    "Q1_0": Exact("sign-1bit", 128, _q1_0),
    "TQ1_0": Exact("affine-2bit-g128-sym", 128, _tq1_0),
    "TQ2_0": Exact("affine-2bit-g128-sym", 128, _tq2_0),
}
