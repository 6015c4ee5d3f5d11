"""Codecs by name, and the codec that reads a blob.

Recipe names (DESIGN section 6) stand for the best setting measured at that many bits (docs/FORMAT.md); a full name such
as `affine-4bit-g32-asym` asks for exactly that one.
"""

from __future__ import annotations

import re

from mobile_bundle.codecs.affine import AffineCodec
from mobile_bundle.codecs.bitnet import BitnetCodec
from mobile_bundle.codecs.blob import AFFINE_BITS, FLAG_ASYMMETRIC, FLAG_ROW_SCALES, BlobHeader, Format
from mobile_bundle.codecs.codec import StreamCodec
from mobile_bundle.codecs.raw import Float32Codec, RawCodec
from mobile_bundle.errors import UserError

_CODECS: dict[str, StreamCodec] = {
    codec.name: codec
    for codec in (
        RawCodec(),
        Float32Codec(),
        AffineCodec(8, 32, False, "affine-8bit"),
        AffineCodec(4, 64, False, "affine-4bit"),
        AffineCodec(3, 64, False, "affine-3bit"),
        AffineCodec(2, 128, True, "affine-2bit"),
        BitnetCodec(),
        BitnetCodec(row_scales=True),
    )
}
_FULL_NAME = re.compile(r"affine-([2348])bit-g(32|64|128)-(a?)sym")


def codec_names() -> list[str]:
    """The short names, as a command lists them."""
    return list(_CODECS)


def codec_by_name(name: str) -> StreamCodec:
    """UserError for a name that is not known."""
    if name in _CODECS:
        return _CODECS[name]
    match = _FULL_NAME.fullmatch(name)
    if match:
        return AffineCodec(int(match[1]), int(match[2]), match[3] == "a")
    raise UserError(
        f"unknown codec {name!r}; known: {', '.join(codec_names())}, affine-<2|3|4|8>bit-g<32|64|128>-<sym|asym>"
    )


def codec_for(header: BlobHeader) -> StreamCodec:
    """The codec that decodes a blob with this header."""
    if header.format is Format.F32:
        return Float32Codec()
    if header.format is Format.BF16:
        return RawCodec()
    if header.format is Format.TERNARY2:
        return BitnetCodec(bool(header.flags & FLAG_ROW_SCALES))
    return AffineCodec(AFFINE_BITS[header.format], header.group, bool(header.flags & FLAG_ASYMMETRIC))
