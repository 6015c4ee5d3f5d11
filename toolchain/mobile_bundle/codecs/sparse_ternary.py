"""Ternary weights with one zero in every four columns, 1.25 bits each: S4-R32 (MB_FORMAT_SPARSE_TERNARY).

w = s * t, t in {-1, 0, 1}. Four positions of the zero times eight signs are 32 cases, five bits: a nibble (position of
the zero; whether the second and third non-zero differ in sign from the first) and a sign bit (the first is negative).

Layout: tiles of 1,600 columns in order, in a tile strips of 32 rows, in a strip 32 int32 counts of negated groups and
then per 32 columns 160 bytes: byte 32*u + r = nibbles of groups 2u (low) and 2u + 1 of row r, byte 128 + r, bit 7 - g =
sign of group g. Padding columns and rows have nibble 0 and sign 0. The scale is the header's, or float32 per row after
the last strip (MB_FLAG_ROW_SCALES).

The rule is Sherry's (3:4 sparse ternary quantisation) without its training: of each group the weight of smallest
magnitude (on a tie the lowest column) becomes 0, the others sign(w) * s, and s = mean |w| of those that are kept, which
is the least-squares scale for these signs. The format cannot hold a second zero: a kept weight that is 0 becomes +s. So
a matrix that has exactly one zero per group and -a or a elsewhere is stored without loss, while an ordinary ternary
matrix (a third of it zeros) is damaged: `exact` refuses it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.blob import FLAG_ROW_SCALES, Blob, round_up
from mobile_bundle.codecs.codec import Encoded, StreamCodec, Write, sum_squares
from mobile_bundle.codecs.declaration import Declaration, FormatRules
from mobile_bundle.codecs.formats import Format
from mobile_bundle.codecs.source import Floats, MatrixSource, chunk_rows
from mobile_bundle.codecs.stats import Stats
from mobile_bundle.codecs.ternary import scaled_rows

Bytes = NDArray[np.uint8]

SPARSE_STRIP_ROWS = 32
SPARSE_TILE = 1600
SPARSE_HEAD = 4 * SPARSE_STRIP_ROWS
SPARSE_BLOCK = 160
BLOCK_COLUMNS = 32
TILE_BLOCKS = SPARSE_TILE // BLOCK_COLUMNS


_EXACT = "-exact"


class SparseTernaryCodec(StreamCodec):
    """row_scales: one scale per row instead of one per tensor. exact: a matrix that would lose anything is refused."""

    format = Format.SPARSE_TERNARY

    def __init__(self, row_scales: bool = False, exact: bool = False) -> None:
        self.row_scales = row_scales
        self.exact = exact
        self.flags = FLAG_ROW_SCALES if row_scales else 0

    @property
    def name(self) -> str:
        return "bitnet-1.25bit-row" if self.row_scales else "bitnet-1.25bit"

    @property
    def lookup(self) -> str:
        return f"{self.name}{_EXACT}" if self.exact else self.name

    def trained_ternary(self) -> SparseTernaryCodec | None:
        """One that refuses what it cannot hold, rather than change a trained model."""
        return None if self.row_scales else SparseTernaryCodec(exact=True)

    def encode_stream(self, source: MatrixSource, write: Write, stats: Stats | None = None) -> Encoded:
        """As StreamCodec. Takes two passes over the source, and RAM for the packed bytes of the columns from the second
        tile on (5/32 byte per weight), because the first tile of all rows is written before them.

        ValueError for values that are not finite and, with `exact`, for a matrix that is not of this format."""
        del stats  # rounding alone
        scales = _scales(source, self.row_scales)  # float32 (rows,) or (1,)
        header = self._header(source, 1.0 if self.row_scales else float(scales[0]))
        write(header.pack())
        blocks = round_up(source.columns, BLOCK_COLUMNS) // BLOCK_COLUMNS
        later: list[list[Bytes]] = [[] for _ in range(TILE_BLOCKS, blocks, TILE_BLOCKS)]
        error = total = 0.0
        changed = False
        begin = 0
        for chunk in _chunks(source):
            count = len(chunk)
            cases = _cases(chunk)  # (padded rows, groups)
            for tile, first in enumerate(range(0, blocks, TILE_BLOCKS)):
                packed = _pack(cases[:, 8 * first : 8 * (first + TILE_BLOCKS)])
                if tile == 0:
                    write(packed.data.cast("B"))
                else:
                    later[tile - 1].append(packed)
            lost = _values(cases[:count])[:, : source.columns]
            lost *= scales[begin : begin + count, None] if self.row_scales else scales
            lost -= chunk
            changed = changed or bool(lost.any())
            error += sum_squares(lost)
            total += sum_squares(chunk)
            begin += count
        if self.exact and changed:
            raise ValueError(
                "the matrix is not ternary with exactly one zero in every four columns, so 1.25 bits would change a "
                "model that is ternary as trained: use the recipe bitnet"
            )
        for strips in later:
            for packed in strips:
                write(packed.data.cast("B"))
        if self.row_scales:
            padded = np.zeros(round_up(source.rows, SPARSE_STRIP_ROWS), "<f4")
            padded[: source.rows] = scales
            write(padded.data.cast("B"))
        return Encoded(header, error, total)

    def decode_rows(self, blob: Blob, begin: int, end: int) -> NDArray[np.float32]:
        header = blob.header
        strips = round_up(header.rows, SPARSE_STRIP_ROWS) // SPARSE_STRIP_ROWS
        blocks = round_up(header.columns, BLOCK_COLUMNS) // BLOCK_COLUMNS
        first, last = begin // SPARSE_STRIP_ROWS, -(-end // SPARSE_STRIP_ROWS)
        skip = begin - first * SPARSE_STRIP_ROWS
        out = np.empty((end - begin, header.columns), np.float32)
        at = 0
        for tile in range(0, blocks, TILE_BLOCKS):
            width = min(TILE_BLOCKS, blocks - tile)
            strip = SPARSE_HEAD + width * SPARSE_BLOCK
            data = np.frombuffer(blob.payload, np.uint8, (last - first) * strip, at + first * strip)
            cases = _unpack(data.reshape(last - first, strip)[:, SPARSE_HEAD:], width)
            here = out[:, tile * BLOCK_COLUMNS : (tile + width) * BLOCK_COLUMNS]
            here[:] = _values(cases[skip : skip + end - begin])[:, : here.shape[1]]
            at += strips * strip
        return scaled_rows(out, blob, at, begin)


def _chunks(source: MatrixSource) -> Iterator[Floats]:
    """The source in chunks of whole strips (the last may be ragged)."""
    return source.chunks(round_up(chunk_rows(source.columns), SPARSE_STRIP_ROWS))


def _scales(source: MatrixSource, per_row: bool) -> Floats:
    """mean |w| of the kept weights of every row, float32 (rows,), or of the matrix, (1,). 0 where none is kept.

    The float64 sum of equal magnitudes is exact, so a matrix of -a, 0 and a has the scale a exactly."""
    sums, kept = [], []
    for chunk in _chunks(source):
        positive = np.abs(chunk)
        total = positive.sum(axis=1, dtype=np.float64)
        if not np.isfinite(total).all():
            raise ValueError("the weights hold NaN or infinite values")
        whole = source.columns // 4 * 4
        groups = positive[:, :whole].reshape(len(chunk), -1, 4)
        smallest = np.minimum(np.minimum(groups[..., 0], groups[..., 1]), np.minimum(groups[..., 2], groups[..., 3]))
        sums.append(total - smallest.sum(axis=1, dtype=np.float64))
        # in a last group of fewer columns a padding column is the zero, unless a real one is 0 already
        kept.append(whole // 4 * 3 + source.columns - whole - (positive[:, whole:] == 0).any(axis=1))
    sum_of, count_of = np.concatenate(sums), np.concatenate(kept)
    if not per_row:
        sum_of, count_of = sum_of.sum(keepdims=True), count_of.sum(keepdims=True)
    scales: Floats = (sum_of / np.maximum(count_of, 1)).astype(np.float32)
    return scales


def _cases(weights: Floats) -> Bytes:
    """Which of the 32 cases each group is: nibble + 16 * sign, uint8, of float32 (n, columns).

    Rows are padded to strips and columns to blocks: (padded n, padded columns / 4); padding is case 0."""
    rows, columns = weights.shape
    padded = np.zeros((round_up(rows, SPARSE_STRIP_ROWS), round_up(columns, BLOCK_COLUMNS)), np.float32)
    padded[:rows, :columns] = weights
    groups = np.abs(padded).reshape(len(padded), -1, 4)
    first, second, third, fourth = (groups[..., i] for i in range(4))
    zero = np.where(
        np.minimum(third, fourth) < np.minimum(first, second),
        (fourth < third).view(np.uint8) + np.uint8(2),
        (second < first).view(np.uint8),
    )
    negative = np.packbits(padded < 0, axis=1, bitorder="little")  # two groups in a byte
    key = zero << np.uint8(4)
    key[:, 0::2] |= negative & np.uint8(15)
    key[:, 1::2] |= negative >> np.uint8(4)
    cases: Bytes = _CASE_OF[key]
    return cases


def _values(cases: Bytes) -> Floats:
    """t of every column, float32 (n, 4 * groups), of cases (n, groups)."""
    return np.take(_TERNARY, cases, axis=0).reshape(len(cases), -1)


def _pack(cases: Bytes) -> Bytes:
    """The strips of one tile, uint8 (strips, bytes of a strip), of cases (32 * strips, 8 * blocks)."""
    rows, groups = cases.shape
    strips, blocks = rows // SPARSE_STRIP_ROWS, groups // 8
    nibbles, negated = cases & np.uint8(15), cases >> np.uint8(4)
    out = np.empty((strips, SPARSE_HEAD + blocks * SPARSE_BLOCK), np.uint8)
    out[:, :SPARSE_HEAD] = negated.sum(axis=1, dtype="<i4").view(np.uint8).reshape(strips, SPARSE_HEAD)
    block = np.empty((rows, blocks, 5), np.uint8)  # four bytes of nibbles and one of signs per row
    block[..., :4] = (nibbles[:, 0::2] | nibbles[:, 1::2] << np.uint8(4)).reshape(rows, blocks, 4)
    block[..., 4] = np.packbits(negated, axis=1)
    interleaved = block.reshape(strips, SPARSE_STRIP_ROWS, blocks, 5).transpose(0, 2, 3, 1)
    out[:, SPARSE_HEAD:] = interleaved.reshape(strips, blocks * SPARSE_BLOCK)
    return out


def _unpack(blocks: Bytes, count: int) -> Bytes:
    """The inverse of _pack: uint8 (strips, 160 * count), no negation counts, to cases (32 * strips, 8 * count)."""
    rows = len(blocks) * SPARSE_STRIP_ROWS
    block = blocks.reshape(-1, count, 5, SPARSE_STRIP_ROWS).transpose(0, 3, 1, 2)
    nibbles = block[..., :4].reshape(rows, 4 * count)
    cases = np.unpackbits(np.ascontiguousarray(block[..., 4]).reshape(rows, count), axis=1) << np.uint8(4)
    cases[:, 0::2] |= nibbles & np.uint8(15)
    cases[:, 1::2] |= nibbles >> np.uint8(4)
    return cases


def _case(key: int) -> int:
    """The case of a group with its zero at column key >> 4 and negative signs where bit `column` is set."""
    first, second, third = (key >> column & 1 for column in range(4) if column != key >> 4)
    return key >> 4 | (second ^ first) << 2 | (third ^ first) << 3 | first << 4


def _group(case: int) -> list[int]:
    """The four t of a case."""
    first = -1 if case & 16 else 1
    group = [first, -first if case & 4 else first, -first if case & 8 else first]
    group.insert(case & 3, 0)
    return group


_CASE_OF = np.array([_case(key) for key in range(64)], np.uint8)
_TERNARY = np.array([_group(case) for case in range(32)], np.float32)


def _payload_bytes(rows: int, columns: int, group: int, flags: int) -> int:
    del group
    strips = round_up(rows, SPARSE_STRIP_ROWS) // SPARSE_STRIP_ROWS
    blocks = round_up(columns, BLOCK_COLUMNS) // BLOCK_COLUMNS
    tiles = -(-blocks // TILE_BLOCKS)
    scales = 4 * SPARSE_STRIP_ROWS * strips if flags & FLAG_ROW_SCALES else 0
    return strips * (tiles * SPARSE_HEAD + blocks * SPARSE_BLOCK) + scales


DECLARATION = Declaration(
    formats=(
        FormatRules(
            Format.SPARSE_TERNARY,
            payload_bytes=_payload_bytes,
            decoder=lambda header: SparseTernaryCodec(bool(header.flags & FLAG_ROW_SCALES)),
            decode_cost=0.6,
            flags=FLAG_ROW_SCALES,
            rows_apart=False,  # a strip's tiles lie apart
            operator=True,
        ),
    ),
    codecs=(SparseTernaryCodec(), SparseTernaryCodec(row_scales=True)),
    recipes={"bitnet-1.25bit": "affine-4bit"},
    full_name=lambda name: SparseTernaryCodec(exact=True) if name == f"bitnet-1.25bit{_EXACT}" else None,
)
