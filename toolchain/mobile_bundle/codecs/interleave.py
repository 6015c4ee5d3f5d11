"""Codes to the 32-bit words of a packed row and back, and rows to strips of 16 interleaved rows and back.

Every packed layout puts four neighbouring columns into the four bytes of one little-endian 32-bit word and gives each
further four columns the next higher bits of the same bytes. So a code array (uint8) seen as words of four columns
("lanes") is packed with shifts and ors on whole words, and interleaving is a transposition of words:
byte 4*r + k of a 64-byte block is byte k of word r.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.blob import STRIP_ROWS

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint32]


def pack_words(codes: Bytes, bits: float) -> Words:
    """Codes below 2**bits, uint8 (..., n), to words (..., n * bits / 32); n a multiple of 32. With 2.5 bits it is one
    of 64, and columns 0 to 3 of every eight have codes below 8, the others below 4."""
    lanes: Words = np.ascontiguousarray(codes).view("<u4")
    if bits == 8:
        return lanes
    if bits == 4:
        return lanes[..., 0::2] | (lanes[..., 1::2] << np.uint32(4))
    if bits == 2:
        return _merge(lanes, 4, 2)
    if bits == 5:  # as 4 bits, and a plane of low bits behind every four words of those
        high = pack_words(((lanes >> np.uint32(1)) & np.uint32(0x0F0F0F0F)).view(np.uint8), 4)  # (..., n / 8)
        low = _merge(lanes & np.uint32(0x01010101), 8, 1)  # (..., n / 32)
        return _behind(high, 4, low)
    if bits == 6:
        high = pack_words(((lanes >> np.uint32(2)) & np.uint32(0x0F0F0F0F)).view(np.uint8), 4)  # (..., n / 8)
        low = _merge(lanes & np.uint32(0x03030303), 4, 2)  # (..., n / 16)
        return _behind(high, 2, low)
    if bits == 3:
        low = _merge(lanes & np.uint32(0x03030303), 4, 2)  # (..., n / 16)
        high = _merge((lanes >> np.uint32(2)) & np.uint32(0x01010101), 8, 1)  # (..., n / 32)
        return _behind(low, 2, high)
    if bits == 2.5:
        low = _merge(lanes & np.uint32(0x03030303), 4, 2)  # (..., n / 16)
        high = _merge((lanes[..., 0::2] >> np.uint32(2)) & np.uint32(0x01010101), 8, 1)  # (..., n / 64)
        return _behind(low, 4, high)
    raise ValueError(f"no layout for {bits} bits")


def unpack_words(words: Words, bits: float) -> Bytes:
    """The inverse of pack_words: words (..., m) to codes uint8 (..., 32 * m / bits)."""
    if bits == 8:
        return np.ascontiguousarray(words).view(np.uint8)
    if bits == 4:
        return _split(words, 2, 4, 0x0F0F0F0F).view(np.uint8)
    if bits == 2:
        return _split(words, 4, 2, 0x03030303).view(np.uint8)
    if bits == 5:
        nibbles, plane = _before(words, 4)
        codes = (_split(nibbles, 2, 4, 0x0F0F0F0F) << np.uint32(1)) | _split(plane, 8, 1, 0x01010101)
        return codes.view(np.uint8)
    if bits == 6:
        nibbles, plane = _before(words, 2)
        codes = (_split(nibbles, 2, 4, 0x0F0F0F0F) << np.uint32(2)) | _split(plane, 4, 2, 0x03030303)
        return codes.view(np.uint8)
    if bits == 3:
        pairs, plane = _before(words, 2)
        high = _split(plane, 8, 1, 0x01010101)
        return (_split(pairs, 4, 2, 0x03030303) | (high << np.uint32(2))).view(np.uint8)
    if bits == 2.5:
        pairs, plane = _before(words, 4)
        lanes = _split(pairs, 4, 2, 0x03030303)
        lanes[..., 0::2] |= _split(plane, 8, 1, 0x01010101) << np.uint32(2)
        return lanes.view(np.uint8)
    raise ValueError(f"no layout for {bits} bits")


def to_strips(words: Words) -> Words:
    """(rows, groups, m) with rows a multiple of 16 -> a view (rows / 16, groups, m, 16): row r of a strip is word r."""
    rows, groups, count = words.shape
    return words.reshape(rows // STRIP_ROWS, STRIP_ROWS, groups, count).transpose(0, 2, 3, 1)


def from_strips(strips: Words) -> Words:
    """The inverse of to_strips: (strips, groups, m, 16) -> a copy (strips * 16, groups, m)."""
    count, groups, m, _ = strips.shape
    return np.ascontiguousarray(strips.transpose(0, 3, 1, 2)).reshape(count * STRIP_ROWS, groups, m)


def _behind(words: Words, count: int, plane: Words) -> Words:
    """Every `count` neighbouring words (..., n) and one of the plane (..., n / count) behind them."""
    out = np.empty((*plane.shape, count + 1), "<u4")
    out[..., :count] = words.reshape(*plane.shape, count)
    out[..., count] = plane
    return out.reshape(*plane.shape[:-1], plane.shape[-1] * (count + 1))


def _before(words: Words, count: int) -> tuple[Words, Words]:
    """The inverse of _behind: the words and the plane."""
    blocks = words.reshape(*words.shape[:-1], words.shape[-1] // (count + 1), count + 1)
    front = np.ascontiguousarray(blocks[..., :count]).reshape(*words.shape[:-1], blocks.shape[-2] * count)
    return front, np.ascontiguousarray(blocks[..., count])


def _merge(lanes: Words, count: int, shift: int) -> Words:
    """Every `count` neighbouring words become one; word j is shifted left by shift * j."""
    out = lanes[..., 0::count].copy()
    for j in range(1, count):
        out |= lanes[..., j::count] << np.uint32(shift * j)
    return out


def _split(words: Words, count: int, shift: int, mask: int) -> Words:
    """The inverse of _merge: every word becomes `count` neighbouring ones."""
    out = np.empty((*words.shape, count), "<u4")
    for j in range(count):
        out[..., j] = (words >> np.uint32(shift * j)) & np.uint32(mask)
    return out.reshape(*words.shape[:-1], words.shape[-1] * count)
