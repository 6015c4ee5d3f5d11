"""Codecs by name, and the codec that reads a blob.

Recipe names (DESIGN section 6) stand for the best setting measured at that many bits (docs/FORMAT.md); a full name such
as `affine-4bit-g32-asym` asks for exactly that one.
"""

from __future__ import annotations

import re

from mobile_bundle.codecs.affine import AffineCodec
from mobile_bundle.codecs.base3 import Base3Codec
from mobile_bundle.codecs.bitnet import BitnetCodec
from mobile_bundle.codecs.blob import (
    AFFINE_BITS,
    FIRST_STORED_FORMAT,
    FLAG_ASYMMETRIC,
    FLAG_ROW_SCALES,
    BlobHeader,
    Format,
    VectorLayout,
)
from mobile_bundle.codecs.codec import StreamCodec
from mobile_bundle.codecs.entropy import SUFFIX, EntropyCodec
from mobile_bundle.codecs.hyper import HyperCodec
from mobile_bundle.codecs.kept import PREFIX, KeptCodec
from mobile_bundle.codecs.raw import Float32Codec, RawCodec
from mobile_bundle.codecs.seedlm import SeedLMCodec
from mobile_bundle.codecs.sign import SignCodec
from mobile_bundle.codecs.sparse_ternary import SparseTernaryCodec
from mobile_bundle.codecs.vptq import VptqCodec, parse_name
from mobile_bundle.errors import ArgumentError

_CODECS: dict[str, StreamCodec] = {
    codec.name: codec
    for codec in (
        RawCodec(),
        Float32Codec(),
        AffineCodec(8, 32, False, "affine-8bit"),
        AffineCodec(6, 64, False, "affine-6bit"),
        AffineCodec(5, 64, False, "affine-5bit"),
        AffineCodec(4, 64, False, "affine-4bit"),
        AffineCodec(3, 64, False, "affine-3bit"),
        AffineCodec(2, 128, True, "affine-2bit"),
        SignCodec(128),
        SignCodec(64),
        SignCodec(32),
        BitnetCodec(),
        BitnetCodec(row_scales=True),
        Base3Codec(),
        Base3Codec(row_scales=True),
        SparseTernaryCodec(),
        SparseTernaryCodec(row_scales=True),
        SeedLMCodec(4),
        SeedLMCodec(3),
        HyperCodec(),
        VptqCodec(VectorLayout(4, 8), "vptq-2bit"),
    )
}
_FULL_NAME = re.compile(r"affine-([234568])bit-g(32|64|128)-(a?)sym")


def codec_names() -> list[str]:
    """The short names, as a command lists them."""
    return list(_CODECS)


def codec_by_name(name: str) -> StreamCodec:
    """UserError for a name that is not known."""
    if name in _CODECS:
        return _CODECS[name]
    if name.startswith(PREFIX):
        return _kept(name.removeprefix(PREFIX))
    if name.endswith(SUFFIX):
        return _entropy_coded(name.removesuffix(SUFFIX))
    match = _FULL_NAME.fullmatch(name)
    if match:
        return AffineCodec(int(match[1]), int(match[2]), match[3] == "a")
    vector = parse_name(name)
    if vector:
        return VptqCodec(vector)
    raise ArgumentError(
        f"unknown codec {name!r}; known: {', '.join(codec_names())}, affine-<2|3|4|5|6|8>bit-g<32|64|128>-<sym|asym>, "
        f"vptq-v<4..12>-b<8..16>[-r<8..16>][-o<columns>]; and any of them that is not a stored form, with {SUFFIX}"
    )


def _kept(name: str) -> KeptCodec:
    inner = codec_by_name(name)
    if not isinstance(inner, (AffineCodec, SignCodec)):
        raise ArgumentError(f"unknown codec {PREFIX + name!r}: only affine and sign codes can be kept")
    return KeptCodec(inner)


def _entropy_coded(name: str) -> EntropyCodec:
    inner = codec_by_name(name)
    if inner.format >= FIRST_STORED_FORMAT:
        raise ArgumentError(f"codec {name} makes a stored form already, which cannot be entropy-coded: drop {SUFFIX!r}")
    return EntropyCodec(inner)


def codec_for(header: BlobHeader) -> StreamCodec:
    """The codec that decodes a blob with this header."""
    if header.format is Format.F32:
        return Float32Codec()
    if header.format is Format.BF16:
        return RawCodec()
    if header.format is Format.TERNARY2:
        return BitnetCodec(bool(header.flags & FLAG_ROW_SCALES))
    if header.format is Format.SPARSE_TERNARY:
        return SparseTernaryCodec(bool(header.flags & FLAG_ROW_SCALES))
    if header.format is Format.SIGN1:
        return SignCodec(header.group)
    if header.format is Format.BASE3:
        return Base3Codec(bool(header.flags & FLAG_ROW_SCALES))
    if header.format is Format.LATTICE:
        return HyperCodec()
    if header.format is Format.SEEDLM:
        return SeedLMCodec(4 if header.group == 8 else 3)
    if header.format is Format.ENTROPY:
        return EntropyCodec()
    if header.format is Format.VECTOR:
        return VptqCodec(VectorLayout.from_flags(header.flags))
    return AffineCodec(AFFINE_BITS[header.format], header.group, bool(header.flags & FLAG_ASYMMETRIC))
