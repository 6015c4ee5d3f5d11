"""The numbers of the formats, and the list of the codecs: what a new codec is registered by (docs/ADDING_A_CODEC.md).

Everything else about a format or a codec stands in the codec's own file, in its DECLARATION (declaration.py).
"""

from __future__ import annotations

from enum import IntEnum


class Format(IntEnum):
    """mb_format of packed_formats.h. A layout never changes under its number."""

    F32 = 1
    BF16 = 2
    TERNARY2 = 3
    AFFINE2 = 4
    AFFINE3 = 5
    AFFINE4 = 6
    AFFINE8 = 7
    SPARSE_TERNARY = 8
    VECTOR = 9
    INT8 = 10
    AFFINE5 = 11
    AFFINE6 = 12
    SIGN1 = 13
    TRELLIS2 = 16
    TRELLIS3 = 17
    TRELLIS25 = 18
    BASE3 = 32
    SEEDLM = 33
    LATTICE = 34
    ENTROPY = 35


WITHDRAWN_FORMATS = (14, 15)
"""Trellis codes of four and two states, which earlier versions wrote. Their numbers are not used again."""

FIRST_STORED_FORMAT = 32
"""From here on a blob is a stored form: decoded once, at install, into a packed one."""

CODEC_FILES = (
    "raw",
    "affine",
    "sign",
    "trellis",
    "bitnet",
    "vptq",
    "base3",
    "sparse_ternary",
    "seedlm",
    "hyper",
    "entropy",
)
"""Modules of this package that hold a DECLARATION. Commands list codecs and recipes in this order."""


class BlobError(ValueError):
    """The bytes are not a valid blob. The message says why, in one line."""
