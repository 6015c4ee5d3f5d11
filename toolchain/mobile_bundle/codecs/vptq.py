"""Vector post-training quantisation: neighbouring columns of a row are one entry of a codebook (MB_FORMAT_VECTOR).

Liu et al. 2024, "VPTQ" (arXiv:2409.17066). What is the same: weighted k-means, rounding vector by vector with the error
propagated to what is still to come (section 3.1), residual codebooks (3.3), columns of their own for outliers (3.4).
What differs: a vector runs along the inputs of one row instead of along the outputs of one column, so that a kernel
looks up four weights that meet four neighbouring activations; the error of a vector is then measured by its block of
the inverse Hessian (GPTVQ: arXiv:2402.15319, section 3.2), not by plain distance. Rows are scaled to unit mean square
instead of columns. Centroids are int8.

Without a Hessian (data-free) every input counts the same and nothing is propagated: that is worse (docs/RESULTS.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.affine import power_of_two_scale
from mobile_bundle.codecs.blob import Blob, BlobHeader
from mobile_bundle.codecs.chunks import coded_pieces
from mobile_bundle.codecs.codebook import Codebooks, nearest_pair, sample_vectors, samples_wanted, train_codebooks
from mobile_bundle.codecs.codec import Encoded, StreamCodec, Write, source_chunks, sum_squares
from mobile_bundle.codecs.declaration import Declaration, FormatRules
from mobile_bundle.codecs.formats import Format
from mobile_bundle.codecs.matrices import Matrix, on_host, times
from mobile_bundle.codecs.propagation import (
    Ordered,
    energy_order,
    importance,
    propagate,
    refine,
    row_errors,
    row_gains,
)
from mobile_bundle.codecs.shared_codebook import TrainedCodebook
from mobile_bundle.codecs.source import Floats, MatrixSource, chunk_rows
from mobile_bundle.codecs.stats import Stats
from mobile_bundle.codecs.vector_blob import (
    Codes,
    VectorParts,
    decode_vector,
    pack_vector,
    split_codebooks,
    stack_codebooks,
)
from mobile_bundle.codecs.vector_exact import fit_vectors
from mobile_bundle.codecs.vector_layout import VectorLayout, vector_bytes
from mobile_bundle.native.vector import nearest

Order = NDArray[np.intp]

_SHARED_SAMPLES = 4
"""Shared codebooks are trained on a quarter of the vectors that others are: a recipe may have many of them."""
_WILD = 4
"""A row with so many times the error of the median row did not come near its target."""
_WIDER = (1.5, 2, 3, 4, 6, 8)
"""Steps that such a row is tried with, relative to what suits most of its weights."""
_NAME = re.compile(r"vptq-v(\d+)-b(\d+)(?:-r(\d+))?(?:-o(\d+))?(-shared)?")


class VptqCodec(StreamCodec):
    """layout: vector length, bits of the indices and of the residual's, outlier columns, shared codebook or its own.
    book: int8 (entries, stride), the shared codebook, for a codec that decodes blobs that need one.

    ValueError for a layout that the format does not have."""

    format = Format.VECTOR
    calibrated = True

    def __init__(self, layout: VectorLayout, name: str | None = None, book: Codes | None = None) -> None:
        if not layout.valid:
            raise ValueError(f"no vector layout {layout}")
        self.layout = layout
        self.group = layout.group
        self.flags = layout.flags
        self._name = name or full_name(layout)
        self._book = book

    @property
    def name(self) -> str:
        return self._name

    @property
    def shared_codebook(self) -> VectorCodebook | None:
        return VectorCodebook(self.layout) if self.layout.shared else None

    def reading(self, codebook: Codes) -> VptqCodec:
        return VptqCodec(self.layout, self._name, codebook) if self.layout.shared else self

    def encode_stream(self, source: MatrixSource, write: Write, stats: Stats | None = None) -> Encoded:
        """The matrix is in RAM as a whole, as float32, a few times; one that lies on the grid is stored as it is.
        ValueError where a shared codebook is missing."""
        stats = stats or Stats()
        weight = np.concatenate(list(source_chunks(source)))
        if not np.isfinite(weight).all():
            raise ValueError("the weights hold NaN or infinite values")
        exact = fit_vectors(self.layout, weight)
        blob = encode_matrix(self.layout, stats.target(weight), stats) if exact is None else pack_vector(exact)
        write(blob.header.pack())
        write(memoryview(blob.payload))
        difference = decode_vector(blob, stats.codebook if self.layout.shared else None)
        difference -= weight
        return Encoded(blob.header, sum_squares(difference), sum_squares(weight))

    def decode_rows(self, blob: Blob, begin: int, end: int) -> Floats:
        """ValueError without the codebook that the blob shares with others (`reading`)."""
        if self.layout.shared and self._book is None:
            raise ValueError(f"the codebook of {self.name} is another tensor")
        return decode_vector(blob, self._book, begin, end)


class VectorCodebook:
    """The codebooks of a layout, as planner and builder see them (shared_codebook.Codebook)."""

    def __init__(self, layout: VectorLayout) -> None:
        self._layout = layout

    @property
    def key(self) -> str:
        layout = self._layout
        return f"v{layout.length}.b{layout.index_bits}.r{layout.residual_bits}"

    @property
    def header(self) -> BlobHeader:
        return BlobHeader(Format.INT8, self._layout.entries, self._layout.stride)

    @property
    def samples_wanted(self) -> int:
        return samples_wanted(self._layout) // _SHARED_SAMPLES

    def sample(self, weight: Floats, stats: Stats, per_column: Floats, count: int) -> tuple[Floats, Floats]:
        return training_sample(weight, stats, per_column, self._layout, count)

    def train(self, points: Floats, weights: Floats) -> TrainedCodebook:
        books = train_codebooks(points, weights, self._layout)
        stacked = stack_codebooks(self._layout, books.first, books.second)
        return TrainedCodebook(stacked, np.array([books.step], np.float32))


def full_name(layout: VectorLayout) -> str:
    """The registry's name of a layout: vptq-v<length>-b<bits>[-r<bits>][-o<columns>][-shared]."""
    name = f"vptq-v{layout.length}-b{layout.index_bits}"
    if layout.residual_bits:
        name += f"-r{layout.residual_bits}"
    if layout.outliers:
        name += f"-o{layout.outliers}"
    return name + "-shared" * layout.shared


def parse_name(name: str) -> VectorLayout | None:
    """The layout of a full name; None if it is none."""
    match = _NAME.fullmatch(name)
    if not match:
        return None
    layout = VectorLayout(int(match[1]), int(match[2]), int(match[3] or 0), int(match[4] or 0), match[5] is not None)
    return layout if layout.valid and layout.outliers < 1 << 14 else None


def row_scales(weight: Floats) -> Floats:
    """Root mean square of every row, float32 (rows,); 1 for a row of zeros."""
    squares = np.einsum("rc,rc->r", weight, weight) / np.float32(weight.shape[1])
    scale: Floats = np.sqrt(squares)
    scale[scale == 0] = 1
    return scale


def training_sample(
    weight: Floats, stats: Stats, per_column: Floats, layout: VectorLayout, count: int
) -> tuple[Floats, Floats]:
    """Vectors of unit rows and their weights, for train_codebooks; per_column: importance of each column."""
    unit = row_scales(weight)
    per_row = np.square(unit)
    if stats.row_weights is not None:
        per_row = per_row * stats.row_weights
    return sample_vectors(weight / unit[:, None], per_row, per_column, layout.length, count)


def encode_matrix(layout: VectorLayout, weight: Floats, stats: Stats) -> Blob:
    """weight: float32 (rows, columns), finite. ValueError where a shared codebook is missing."""
    rows, columns = weight.shape
    if layout.outliers > columns:
        raise ValueError(f"{layout.outliers} outlier columns of {columns}")
    order = _outliers_first(weight, stats, layout.outliers, layout.length)
    ordered = None if stats.hessian is None else Ordered.of(stats.hessian, order)
    factor = None if ordered is None else ordered.factor
    books = _codebooks(layout, weight, stats, factor, order)
    unit = row_scales(_without(weight, order[: layout.outliers]))
    scale = power_of_two_scale(float(unit.max()) * books.step)
    halves = (unit * np.float32(books.step / scale)).astype(np.float16)
    real = halves.astype(np.float32) * np.float32(scale)  # what one code is worth, row by row
    if ordered is None:
        encoder = _Encoder(layout, books, order, rows, columns)
        if layout.outliers:
            encoder.propagate(weight, real, np.eye(columns, dtype=np.float32))
        else:
            encoder.quantise_apart(_in_codes(weight, real))
    else:
        given, damped = ordered.factor, ordered.damped

        def code(part: slice) -> tuple[_Encoder, Floats]:
            encoder = _Encoder(layout, books, order, part.stop - part.start, columns)
            return encoder, encoder.propagate(weight[part], real[part], given, damped)

        encoders, coded = zip(*coded_pieces(rows, given, code), strict=True)
        encoder, values = _Encoder.joined(encoders), np.concatenate(coded)
        if _code_wild_rows_again(encoder, weight, values, real, given, damped):
            scale = power_of_two_scale(float(real.max()))
            halves = (real / np.float32(scale)).astype(np.float16)
        halves = (halves * row_gains(weight, values, times(weight, ordered.hessian))).astype(np.float16)
    outlier_columns, outlier_values = encoder.outliers()
    return pack_vector(
        VectorParts(
            layout,
            columns,
            scale,
            halves,
            books.first,
            books.second,
            encoder.indices,
            encoder.residual_indices,
            outlier_columns,
            outlier_values,
        )
    )


def _code_wild_rows_again(
    encoder: _Encoder, weight: Floats, values: Floats, real: Floats, factor: Matrix, damped: Matrix
) -> bool:
    """Codes rows that went wild with wider steps, where that does better. Whether there were any.

    A weight beyond the codebook's reach that meets a large input (an attention sink's) leaves an error for which all
    other weights of the row are moved to the codebook's edge, and which they cannot make up for even so. Row 507 of the
    down projections of SmolLM2-135M's layers 11 and 28 came back with an error of 12 to 18 times its energy. Wider
    steps for such rows took 14 % off the divergence of a plan of 62 MB. values, real: what `encoder` gave and was
    given, float32 (rows, columns) and (rows,), overwritten."""
    energy = np.square(weight).sum(1)
    filled = np.flatnonzero(energy)  # a row of zeros has no error to compare with its energy
    if not len(filled):
        return False
    errors = np.square(values[filled] - weight[filled]).sum(1) / energy[filled]
    wild = filled[errors > _WILD * np.median(errors)]
    if not len(wild):
        return False
    rows, steps = weight[wild], real[wild]

    def lost(found: Floats) -> Floats:
        return row_errors((found - rows)[:, encoder.order], damped)

    least = lost(values[wild])
    for wider in _WIDER:
        trial = encoder.of_rows(len(wild))
        found = trial.propagate(rows, steps * np.float32(wider), factor, damped)
        errors = lost(found)
        better = errors < least
        encoder.take(wild[better], trial, better)
        least[better], values[wild[better]], real[wild[better]] = errors[better], found[better], wider * steps[better]
    return True


def _in_codes(weight: Floats, real: Floats) -> Floats:
    """Rows in units of a code. real: what a code of each row is worth."""
    inverse = np.divide(np.float32(1), real, out=np.zeros_like(real), where=real > 0)
    codes: Floats = weight * inverse[:, None]
    return codes


def _codebooks(layout: VectorLayout, weight: Floats, stats: Stats, factor: Matrix | None, order: Order) -> Codebooks:
    if layout.shared:
        if stats.codebook is None or stats.codebook_step is None:
            raise ValueError("the codebook that its layers share is missing")
        first, second = split_codebooks(layout, stats.codebook)
        return Codebooks(first, second, float(stats.codebook_step[0]))
    per_column = np.ones(weight.shape[1], np.float32)
    if factor is not None:
        per_column[order] = importance(factor)
    outliers = order[: layout.outliers]
    others = _without(weight, outliers)
    points, weights = training_sample(others, stats, per_column, layout, samples_wanted(layout))
    reach = float(np.abs(weight[:, outliers] / row_scales(others)[:, None]).max(initial=0))
    return train_codebooks(points, weights, layout, reach)


def _without(weight: Floats, columns: Order) -> Floats:
    """The weights with 0 in some columns: outliers must neither scale the rows nor train the codebook."""
    if not len(columns):
        return weight
    rest = weight.copy()
    rest[:, columns] = 0
    return rest


def _outliers_first(weight: Floats, stats: Stats, outliers: int, length: int) -> Order:
    """The order of rounding: the columns that matter most, in their own order, then the others, vector by vector."""
    energy = np.einsum("rc,rc->c", weight, weight)
    if stats.hessian is not None:
        energy = energy * on_host(stats.hessian.diagonal())
    chosen = np.zeros(len(energy), bool)
    chosen[np.argsort(-energy, kind="stable")[:outliers]] = True
    rest = np.arange(len(energy)) if stats.hessian is None else energy_order(stats.hessian, length)
    return np.concatenate([np.flatnonzero(chosen), rest[~chosen[rest]]])


class _Encoder:
    """Rounds blocks of columns, in the order of rounding, and remembers the indices.

    Outlier columns come first, one by one, to whole codes; the other columns of a vector then choose its entry, and the
    outliers' correction is what is left to their code."""

    def __init__(self, layout: VectorLayout, books: Codebooks, order: Order, rows: int, columns: int) -> None:
        self._layout, self._given, self._columns = layout, books, columns
        self._books = [books.first] if books.second is None else [books.first, books.second]
        self._floats = [book.astype(np.float32) for book in self._books]
        vectors = -(-columns // layout.length)
        self.indices = np.zeros((rows, vectors), np.uint16)
        self.residual_indices = np.zeros((rows, vectors), np.uint16) if books.second is not None else None
        self.order = order
        outliers = layout.outliers
        self._outlier_codes = np.zeros((rows, outliers), np.int32)
        # the other columns by their vector: runs of equal column // length
        vector_of = order[outliers:] // layout.length
        starts = np.flatnonzero(np.diff(vector_of, prepend=-1)) + outliers
        self.blocks = [(i, i + 1) for i in range(outliers)]
        self.blocks += [(int(a), int(b)) for a, b in pairwise([*starts, columns])]

    @staticmethod
    def joined(parts: Sequence[_Encoder]) -> _Encoder:
        """One that has rounded the rows of all of them."""
        whole = parts[0]
        whole.indices = np.concatenate([part.indices for part in parts])
        if whole.residual_indices is not None:
            whole.residual_indices = np.concatenate(
                [part.residual_indices for part in parts if part.residual_indices is not None]
            )
        whole._outlier_codes = np.concatenate([part._outlier_codes for part in parts])
        return whole

    def of_rows(self, rows: int) -> _Encoder:
        """One for so many rows of the same matrix."""
        return _Encoder(self._layout, self._given, self.order, rows, self._columns)

    def take(self, rows: NDArray[np.intp], other: _Encoder, chosen: NDArray[np.bool_]) -> None:
        """Takes over the chosen rows of `other` as these rows."""
        self.indices[rows] = other.indices[chosen]
        self._outlier_codes[rows] = other._outlier_codes[chosen]
        if self.residual_indices is not None and other.residual_indices is not None:
            self.residual_indices[rows] = other.residual_indices[chosen]

    def propagate(self, weight: Floats, real: Floats, factor: Matrix, damped: Matrix | None = None) -> Floats:
        """The rows' values, float32 (rows, columns), with errors propagated; with `damped` (Ordered's), every vector is
        rounded again after that. real: what a code of each row is worth, float32 (rows,)."""
        own = np.ascontiguousarray(_in_codes(weight, real).T[self.order])
        work = own.copy()
        propagate(work, factor, self.blocks, self.quantise)
        if damped is not None:
            refine(own, work, damped, self.blocks, self.quantise)
        work[:] = work * real  # as values
        values = np.empty_like(weight)
        values[:, self.order] = work.T
        return values

    def quantise_apart(self, codes: Floats) -> None:
        """Every vector of the matrix to its nearest entry; codes: float32 (rows, columns) in units of a code."""
        length = self._layout.length
        rows, vectors = self.indices.shape
        step = chunk_rows(codes.shape[1])
        for begin in range(0, rows, step):
            chunk = codes[begin : begin + step]
            points = np.zeros((len(chunk), vectors * length), np.float32)
            points[:, : chunk.shape[1]] = chunk
            chosen = self._search(points.reshape(-1, length), self._floats)
            self.indices[begin : begin + step] = chosen[0].reshape(len(chunk), vectors)
            if self.residual_indices is not None:
                self.residual_indices[begin : begin + step] = chosen[1].reshape(len(chunk), vectors)

    def quantise(self, number: int, block: Floats, factor: Floats) -> Floats:
        """block: float32 (width, rows) in units of a code; factor: its block of U. propagate's `Quantise`."""
        outliers = self._layout.outliers
        if number < outliers:
            codes: Floats = np.clip(np.rint(block[0]), -127, 127)
            self._outlier_codes[:, number] = codes
            return codes[None]
        begin, end = self.blocks[number]
        columns = self.order[begin:end]
        vector, dims = int(columns[0]) // self._layout.length, columns % self._layout.length
        books = [book[:, dims] for book in self._floats]
        # distances are those of the errors e with e U = difference
        inverse = np.linalg.inv(factor.astype(np.float64)).astype(np.float32)
        chosen = self._search(block.T @ inverse, [book @ inverse for book in books])
        self.indices[:, vector] = chosen[0]
        rounded = books[0][chosen[0]]
        if self.residual_indices is not None:
            self.residual_indices[:, vector] = chosen[1]
            rounded = rounded + books[1][chosen[1]]
        return np.ascontiguousarray(rounded.T)

    def _search(self, points: Floats, books: list[Floats]) -> list[NDArray[np.uint32]]:
        if len(books) == 1:
            return [nearest(points, books[0])]
        return list(nearest_pair(points, books[0], books[1]))

    def outliers(self) -> tuple[NDArray[np.uint32], NDArray[np.int8]]:
        """Their columns and corrections, int8 (rows, outliers)."""
        columns = self.order[: self._layout.outliers]
        vector, dims = columns // self._layout.length, columns % self._layout.length
        q = self._books[0][self.indices[:, vector], dims].astype(np.int32)
        if self.residual_indices is not None:
            q += self._books[1][self.residual_indices[:, vector], dims]
        return columns.astype(np.uint32), np.clip(self._outlier_codes - q, -127, 127).astype(np.int8)


def _full_name(name: str) -> VptqCodec | None:
    layout = parse_name(name)
    return VptqCodec(layout) if layout else None


DECLARATION = Declaration(
    formats=(
        FormatRules(
            Format.VECTOR,
            payload_bytes=vector_bytes,
            decoder=lambda header: VptqCodec(VectorLayout.from_flags(header.flags)),
            decode_cost=3.2,
            groups=(0, 128),
            flags=0xFFFFFFFF,  # they hold the layout, which the size rule checks
            rows_apart=False,  # scales and indices lie apart
            operator=True,
        ),
        FormatRules(  # shared codebooks
            Format.INT8,
            payload_bytes=lambda rows, columns, group, flags: rows * columns,
            decoder=None,
            matrix=False,
        ),
    ),
    codecs=(VptqCodec(VectorLayout(4, 8), "vptq-2bit"),),
    recipes={"vptq-2bit": "affine-4bit"},
    full_name=_full_name,
    full_names="vptq-v<4..12>-b<8..16>[-r<8..16>][-o<columns>][-shared]",
)
