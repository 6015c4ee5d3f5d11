"""Codebooks of int8 vectors: weighted k-means (Lloyd), and pairs of codebooks whose entries add up.

Weights are VPTQ's: the importance of a vector's columns (Liu et al. 2024, arXiv:2409.17066, section 3.1). Pairs are
fitted jointly, as in additive quantisation (Babenko and Lempitsky 2014): with the indices fixed both codebooks are one
linear least-squares problem; the indices are then searched again among the best first entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.source import Floats
from mobile_bundle.codecs.vector_layout import VectorLayout
from mobile_bundle.native.vector import nearest

Indices = NDArray[np.uint32]
Codes = NDArray[np.int8]

LARGEST_CODE = 127
_ROUNDS = 12
_PAIR_ROUNDS = 10
_BEAM = 8
_MOST_REACH = 8
_PIECE = 1 << 14
_SAMPLES_PER_ENTRY = 96
_LEAST_SAMPLES = 1 << 15
_MOST_SAMPLES = 1 << 19


@dataclass(frozen=True)
class Codebooks:
    """first: int8 (2**index_bits, length); second: int8 (2**residual_bits, length) or None; a vector of a row with unit
    mean square is about step * (first[i] + second[j])."""

    first: Codes
    second: Codes | None
    step: float


def samples_wanted(layout: VectorLayout) -> int:
    """Vectors that codebooks of this layout are trained on."""
    return min(max(_SAMPLES_PER_ENTRY << max(layout.index_bits, layout.residual_bits), _LEAST_SAMPLES), _MOST_SAMPLES)


def sample_vectors(
    unit_weight: Floats, per_row: Floats, per_column: Floats, length: int, count: int
) -> tuple[Floats, Floats]:
    """At most `count` whole vectors of a matrix whose rows have unit mean square, and how much each one counts.

    unit_weight: float32 (rows, columns); per_row (rows,), per_column (columns,): importance of an error there.
    Returns float32 (n, length), (n,); vectors at evenly spread places, so the choice is the same every time."""
    rows, columns = unit_weight.shape
    vectors = columns // length
    if vectors == 0:  # narrower than one vector
        wide = np.zeros((rows, length), np.float32)
        wide[:, :columns] = unit_weight
        return wide, per_row * per_column.mean()
    total = rows * vectors
    # a golden-ratio walk over all vectors: even, without the resonance of a fixed stride
    step = int(total * 0.6180339887) | 1
    places = np.arange(min(count, total), dtype=np.int64) * step % total if count < total else np.arange(total)
    row, vector = np.divmod(places, vectors)
    points = unit_weight[row[:, None], vector[:, None] * length + np.arange(length)]
    weights = per_row[row] * per_column[: vectors * length].reshape(vectors, length).mean(axis=1)[vector]
    return np.ascontiguousarray(points), weights.astype(np.float32)


def train_codebooks(points: Floats, weights: Floats, layout: VectorLayout, outlier_reach: float = 0.0) -> Codebooks:
    """points: float32 (n, length); weights: float32 (n,). The codes of a sum never leave [-127, 127].

    outlier_reach: the largest magnitude in outlier columns. Codes are made coarse enough for it, up to eight times the
    codebook's own reach, where rounding centroids begins to cost something."""
    if layout.residual_bits:
        books = list(train_pair(points, weights, 1 << layout.index_bits, 1 << layout.residual_bits))
    else:
        books = [train(points, weights, 1 << layout.index_bits)]
    reach = [float(np.abs(book).max()) for book in books]
    own = sum(reach)
    if own > 0:
        outlier_reach = min(outlier_reach, _MOST_REACH * own)
    step = max(own, outlier_reach) / LARGEST_CODE or 1.0
    limits = [int(each / step) for each in reach]
    limits[0] = LARGEST_CODE - sum(limits[1:])
    codes = [np.clip(np.rint(b / step), -top, top).astype(np.int8) for b, top in zip(books, limits, strict=True)]
    return Codebooks(codes[0], codes[1] if len(codes) > 1 else None, step)


def train(points: Floats, weights: Floats, entries: int) -> Floats:
    """k-means. points: float32 (n, length), n >= 1; weights: float32 (n,), not negative. Returns float32 (entries,
    length). Deterministic. Entries that no point chooses stay where they started."""
    generator = np.random.default_rng(0)
    centroids = np.zeros((entries, points.shape[1]), np.float32)
    start = generator.permutation(len(points))[:entries]
    centroids[: len(start)] = points[start]
    for _ in range(_ROUNDS):
        index = nearest(points, centroids)
        count = np.bincount(index, weights, entries)
        for column in range(points.shape[1]):
            total = np.bincount(index, weights * points[:, column], entries)
            np.divide(total, count, out=centroids[:, column], where=count > 0, casting="same_kind")
    return centroids


def train_pair(points: Floats, weights: Floats, entries: int, second: int) -> tuple[Floats, Floats]:
    """Two codebooks whose sums stand for the points: float32 (entries, length) and (second, length)."""
    first = train(points, weights, entries)
    other = train(points - first[nearest(points, first)], weights, second)
    for _ in range(_PAIR_ROUNDS):
        i, j = nearest_pair(points, first, other)
        both = np.zeros((entries + second, entries + second))
        both[:entries, :entries] = np.diag(np.bincount(i, weights, entries))
        both[entries:, entries:] = np.diag(np.bincount(j, weights, second))
        cross = np.bincount(i.astype(np.int64) * second + j, weights, entries * second).reshape(entries, second)
        both[:entries, entries:], both[entries:, :entries] = cross, cross.T
        right = np.empty((entries + second, points.shape[1]))
        for column in range(points.shape[1]):
            right[:entries, column] = np.bincount(i, weights * points[:, column], entries)
            right[entries:, column] = np.bincount(j, weights * points[:, column], second)
        # the pair is determined but for a shift from one codebook to the other: a little damping picks one
        both[np.diag_indices_from(both)] += 1e-2 * float(weights.mean())
        solved = np.linalg.solve(both, right).astype(np.float32)
        first, other = np.ascontiguousarray(solved[:entries]), np.ascontiguousarray(solved[entries:])
    return first, other


def nearest_pair(points: Floats, first: Floats, second: Floats) -> tuple[Indices, Indices]:
    """Indices uint32 (n,) of the entries of both codebooks whose sum is nearest, among the few best first entries."""
    i, j = np.empty(len(points), np.uint32), np.empty(len(points), np.uint32)
    beam = min(_BEAM, len(first))
    norms = np.square(first).sum(axis=1) / 2
    for begin in range(0, len(points), _PIECE):
        piece = points[begin : begin + _PIECE]
        score = norms - piece @ first.T
        candidates = np.sort(np.argpartition(score, beam - 1, axis=1)[:, :beam], axis=1)
        rest = piece[:, None] - first[candidates]  # (n, beam, length)
        choice = nearest(rest.reshape(-1, points.shape[1]), second).reshape(candidates.shape)
        rest -= second[choice]
        best = np.einsum("nbl,nbl->nb", rest, rest).argmin(axis=1)[:, None]
        i[begin : begin + len(piece)] = np.take_along_axis(candidates, best, 1)[:, 0]
        j[begin : begin + len(piece)] = np.take_along_axis(choice, best, 1)[:, 0]
    return i, j
