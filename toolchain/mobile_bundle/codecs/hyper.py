"""Hyper-Compression: pairs of weights as nodes of a line that winds around a square, 6.5 bits (MB_FORMAT_LATTICE).

Method: Fan et al. 2024, "Hyper-Compression: Model Compression via Hyperfunction" (arXiv:2409.00592), section 3: an
irrational winding comes near to every point of the square, so that one number, the time along the line, stands for a
point; points outside of the square are scaled into it by a class. With the paper's 1,600 nodes and a slope of 40 the
nodes are a sheared 40 x 40 lattice, so the nearest one is found by rounding, without a search tree. The paper's fixed
side of 0.1 is replaced: side and classes are fitted to each tensor, and the classes grow geometrically until the last
one covers every weight, so nothing is clipped.

A stored form: `mobile-run install` decodes it to AFFINE8 (8.5 bits per weight, 3e-5 of relative error more). Layout and
decode formula: runtime/storage/lattice.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.blob import Blob
from mobile_bundle.codecs.codec import Encoded, StreamCodec, Write, source_chunks, sum_squares
from mobile_bundle.codecs.declaration import Declaration, FormatRules, Installed
from mobile_bundle.codecs.formats import BlobError, Format
from mobile_bundle.codecs.source import Floats, MatrixSource
from mobile_bundle.codecs.stats import Stats

LATTICE_HEAD = 64
"""Bytes before the codes."""
NODES = 1600
TURNS = 40
CLASSES = 4
BITS = 13
MAX_WEIGHT = 1e15
"""Sums of squares of larger ones could be infinite in float32."""
_UNITS = 2 * NODES
"""Steps along a side of the square: nodes have odd coordinates -1599..1599, or multiples of 40 of such."""
_HISTOGRAM_SHIFT = 18
"""Bits of a float32 that a histogram of magnitudes leaves out: 32 bins for every power of two."""
_SIDES = np.geomspace(1 / 64, 1.0, 49)
"""Sides of the innermost square that are tried, in parts of the outermost's."""


@dataclass(frozen=True)
class LatticeHead:
    """mb_lattice_head. centre: float32 (2,); step: float32 (4,), side of the square of each class / 3200."""

    centre: Floats
    step: Floats

    def pack(self) -> bytes:
        return struct.pack("<6f40s", *self.centre, *self.step, bytes(40))

    @staticmethod
    def parse(payload: bytes | memoryview) -> LatticeHead:
        """BlobError where it is damaged."""
        values = np.frombuffer(payload, "<f4", 6).astype(np.float32)
        if not np.isfinite(values).all() or any(payload[24:LATTICE_HEAD]):
            raise BlobError("head of the lattice blob is damaged")
        return LatticeHead(values[:2], values[2:])


class HyperCodec(StreamCodec):
    """The lattice of Hyper-Compression."""

    format = Format.LATTICE
    name = "hyper"

    def encode_stream(self, source: MatrixSource, write: Write, stats: Stats | None = None) -> Encoded:
        """ValueError for values that are not finite or larger than 1e15."""
        del stats  # data-free
        head = fit_head(source)
        header = self._header(source)
        write(header.pack())
        write(head.pack())
        bits = BitWriter(write)
        error = total = 0.0
        for chunk in source_chunks(source):
            indices = nearest_indices(head, _pairs(chunk))
            bits.append(indices)
            back = _points(head, indices).reshape(len(chunk), -1)[:, : source.columns]
            error += sum_squares(back - chunk)
            total += sum_squares(chunk)
        bits.finish()
        return Encoded(header, error, total)

    def decode_rows(self, blob: Blob, begin: int, end: int) -> NDArray[np.float32]:
        head = LatticeHead.parse(blob.payload)
        per_row = (blob.header.columns + 1) // 2
        indices = _unpack(blob.payload[LATTICE_HEAD:], begin * per_row, (end - begin) * per_row)
        if indices.size and indices.max() >= CLASSES * (NODES + 1):
            raise BlobError("lattice blob holds a code that does not exist")
        values = _points(head, indices).reshape(end - begin, 2 * per_row)
        return np.ascontiguousarray(values[:, : blob.header.columns])


class BitWriter:
    """Indices of 13 bits, one behind the other, to whole bytes."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._rest = np.empty(0, np.uint16)

    def append(self, indices: NDArray[np.uint16]) -> None:
        """Writes what fills whole groups of eight (13 bytes), and keeps the others."""
        indices = np.concatenate([self._rest, indices])
        whole = len(indices) // 8 * 8
        self._rest = indices[whole:]
        if whole:
            self._write(_pack(indices[:whole]))

    def finish(self) -> None:
        """Writes the last bytes, filled up with zeros."""
        if len(self._rest):
            self._write(_pack(self._rest)[: (len(self._rest) * BITS + 7) // 8])


def fit_head(source: MatrixSource) -> LatticeHead:
    """Centre and squares for a matrix: the centroid of its pairs, the outermost square just around all of them, and the
    innermost of the side whose expected squared error is least.

    A pair at the distance r (larger coordinate) falls into the smallest square that holds it; its two coordinates are
    then off by up to half a cell, a fortieth of that square's side. ValueError for values that are not finite."""
    total = np.zeros(2)
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    counts = np.zeros(1 << 32 - _HISTOGRAM_SHIFT - 1, np.int64)
    for chunk in source_chunks(source):
        if not np.isfinite(chunk).all():
            raise ValueError("the weights hold NaN or infinite values")
        pairs = _pairs(chunk)
        total += pairs.sum(axis=0, dtype=np.float64)
        low, high = np.minimum(low, pairs.min(axis=0)), np.maximum(high, pairs.max(axis=0))
        reach = np.abs(pairs).max(axis=1)
        counts += np.bincount(reach.view(np.uint32) >> np.uint32(_HISTOGRAM_SHIFT), minlength=len(counts))
    if max(high.max(), -low.min()) > MAX_WEIGHT:
        raise ValueError(f"the lattice takes weights up to {MAX_WEIGHT:g}")
    centre = (total / (source.rows * ((source.columns + 1) // 2))).astype(np.float32)
    radius = float(np.maximum(high - centre, centre - low).max()) * (1 + 1e-6)  # above the rounding of float32
    bins = np.flatnonzero(counts)
    ends = ((bins.astype(np.uint32) + np.uint32(1)) << np.uint32(_HISTOGRAM_SHIFT)).view(np.float32)
    ends = np.minimum(ends.astype(np.float64), radius)
    best_error, best_sides = np.inf, np.zeros(CLASSES)
    for ratio in _SIDES:
        sides = 2 * radius * ratio ** (1 - np.arange(CLASSES) / (CLASSES - 1))
        own = sides[np.minimum(np.searchsorted(sides, 2 * ends), CLASSES - 1)]
        error = float((counts[bins] * np.square(own)).sum())
        if error < best_error:
            best_error, best_sides = error, sides
    return LatticeHead(centre, (best_sides / _UNITS).astype(np.float32))


def nearest_indices(head: LatticeHead, pairs: Floats) -> NDArray[np.uint16]:
    """The code nearest to every pair (n, 2), among the nodes of all four classes and the centre: uint16 (n,).

    In a class, rows of the lattice are a cell apart in y and shifted by a fortieth of one in x: the nearest node is in
    one of the two rows next to the pair, where rounding finds it."""
    best = np.full(len(pairs), NODES, np.uint16)
    unit = head.step[-1]
    if unit == 0:
        return best  # a matrix of one value: the centre is all there is
    offset = (pairs - head.centre) / unit  # in the outermost class's steps, so that no square underflows
    best_error = np.einsum("nc,nc->n", offset, offset)
    for k, step in enumerate(head.step / unit):
        if step == 0:
            continue  # so small a step is below the smallest number
        x = offset[:, 0] / step + np.float32(NODES - 1)  # node n: x = 2 n, y = 80 (n mod 40)
        y = offset[:, 1] / step + np.float32(TURNS * (TURNS - 1))
        row = np.rint(y / np.float32(2 * TURNS))
        side = np.where(y >= row * np.float32(2 * TURNS), np.float32(1), np.float32(-1))
        for shift in (np.float32(0), side):
            b = np.clip(row + shift, 0, TURNS - 1)
            a = np.clip(np.rint((x - 2 * b) / np.float32(2 * TURNS)), 0, TURNS - 1)
            node = TURNS * a + b
            dx = (x - 2 * node) * step
            dy = (y - 2 * TURNS * b) * step
            error = dx * dx + dy * dy
            better = error < best_error
            np.copyto(best_error, error, where=better)
            np.copyto(best, node.astype(np.uint16) + np.uint16(k * (NODES + 1)), where=better)
    return best


def _pairs(chunk: Floats) -> Floats:
    """Rows (n, columns) to pairs of neighbours (n * ceil(columns / 2), 2); an odd row's last gets a zero."""
    if chunk.shape[1] % 2:
        chunk = np.pad(chunk, ((0, 0), (0, 1)))
    return chunk.reshape(-1, 2)


def _points(head: LatticeHead, indices: NDArray[np.uint16]) -> Floats:
    """float32 (n, 2), exactly as lattice.h says."""
    kind, node = np.divmod(indices.astype(np.int32), NODES + 1)
    out = np.empty((len(indices), 2), np.float32)
    out[:, 0] = np.where(node < NODES, 2 * node - (NODES - 1), 0)
    out[:, 1] = np.where(node < NODES, TURNS * (2 * (node % TURNS) - (TURNS - 1)), 0)
    out *= head.step[kind][:, None]
    out += head.centre
    return out


def _pack(indices: NDArray[np.uint16]) -> bytes:
    """Bits 13 * i.. of the result are index i; filled up to 13 bytes for every eight."""
    padded = np.zeros(-(-len(indices) // 8) * 8, "<u2")
    padded[: len(indices)] = indices
    bits = np.unpackbits(padded.view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")[:, :BITS]
    return np.packbits(np.ascontiguousarray(bits).reshape(-1), bitorder="little").tobytes()


def _unpack(packed: bytes | memoryview, first: int, count: int) -> NDArray[np.uint16]:
    """Indices first..first + count - 1."""
    begin = first * BITS // 8
    data = np.frombuffer(packed, np.uint8)[begin : ((first + count) * BITS + 7) // 8]
    bits = np.unpackbits(data, bitorder="little")[first * BITS - 8 * begin :][: count * BITS].reshape(count, BITS)
    wide = np.zeros((count, 16), np.uint8)
    wide[:, :BITS] = bits
    return np.packbits(wide, axis=1, bitorder="little").view("<u2")[:, 0].astype(np.uint16)


DECLARATION = Declaration(
    formats=(
        FormatRules(
            Format.LATTICE,
            payload_bytes=lambda rows, columns, group, flags: (
                LATTICE_HEAD + (rows * ((columns + 1) // 2) * BITS + 7) // 8
            ),
            decoder=lambda header: HyperCodec(),
            installed=Installed(Format.AFFINE8, "affine-8bit", group=32),
        ),
    ),
    codecs=(HyperCodec(),),
    recipes={"hyper": "affine-4bit"},
)
