"""Packing and unpacking of vector-quantised matrices (MB_FORMAT_VECTOR of packed_formats.h); nothing is chosen here.

`length` neighbouring columns of a row are one entry of a codebook of int8 vectors, perhaps plus one of a residual
codebook, perhaps plus a correction of its own in a few outlier columns, times the row's scale: the storage of VPTQ
(Liu et al., 2024, arXiv:2409.17066, sections 3.2 to 3.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.blob import Blob, BlobHeader
from mobile_bundle.codecs.formats import BlobError, Format
from mobile_bundle.codecs.source import chunk_rows
from mobile_bundle.codecs.vector_layout import VECTOR_SLACK, VectorLayout

Bytes = NDArray[np.uint8]
Codes = NDArray[np.int8]
Indices = NDArray[np.uint16]

_LARGEST_CODE = 127
_PER_BLOCK = 8
"""Indices that begin a whole byte together: 8 of b bits are b bytes."""


@dataclass(frozen=True)
class VectorParts:
    """A vector-quantised matrix, unpacked, or some of its rows; vectors = ceil(columns / layout.length).

    scale: the header's; row_scales: float16 (rows,); codebook: int8 (2**index_bits, length); residual: int8
    (2**residual_bits, length) or None; indices: uint16 (rows, vectors); residual_indices: likewise or None;
    outlier_columns: uint32 (outliers,), ascending; outlier_values: int8 (rows, outliers)."""

    layout: VectorLayout
    columns: int
    scale: float
    row_scales: NDArray[np.float16]
    codebook: Codes
    residual: Codes | None
    indices: Indices
    residual_indices: Indices | None
    outlier_columns: NDArray[np.uint32]
    outlier_values: Codes

    def codes(self) -> Codes:
        """q of every weight, int8 (rows, columns); sums wrap around at 8 bits, as the kernels' do."""
        q = self.codebook[self.indices]
        if self.residual is not None:
            q += self.residual[self.residual_indices]
        flat = q.reshape(len(q), -1)[:, : self.columns]
        flat[:, self.outlier_columns] += self.outlier_values
        return flat

    def weights(self) -> NDArray[np.float32]:
        """float32 (rows, columns): scale * (d * q), both products rounded as float32."""
        values = self.codes().astype(np.float32)
        values *= self.row_scales.astype(np.float32)[:, None]
        values *= np.float32(self.scale)
        return values


def pack_indices(indices: NDArray[np.integer], bits: int) -> Bytes:
    """indices (rows, vectors), each below 2**bits -> uint8 (rows, ceil(vectors * bits / 8)): index k of a row at bits
    k * bits.. of it, bit 0 the lowest of byte 0. bits: 8..16."""
    rows, vectors = indices.shape
    blocks = -(-vectors // _PER_BLOCK)
    fields = np.zeros((rows, blocks, _PER_BLOCK), np.uint32)
    fields.reshape(rows, -1)[:, :vectors] = indices
    out = np.zeros((rows, blocks, bits), np.uint8)
    for k in range(_PER_BLOCK):
        byte, shift = divmod(k * bits, 8)
        for at in range(byte, (k * bits + bits + 7) // 8):
            out[..., at] |= ((fields[..., k] << shift) >> (8 * (at - byte)) & 255).astype(np.uint8)
    return out.reshape(rows, -1)[:, : (vectors * bits + 7) // 8]


def unpack_indices(packed: Bytes, vectors: int, bits: int) -> Indices:
    """The inverse: packed uint8 (rows, ceil(vectors * bits / 8)) -> uint16 (rows, vectors)."""
    rows = len(packed)
    blocks = -(-vectors // _PER_BLOCK)
    whole = np.zeros((rows, blocks, bits), np.uint8)
    whole.reshape(rows, -1)[:, : packed.shape[1]] = packed
    out = np.zeros((rows, blocks, _PER_BLOCK), np.uint32)
    for k in range(_PER_BLOCK):
        byte, shift = divmod(k * bits, 8)
        for at in range(byte, (k * bits + bits + 7) // 8):
            out[..., k] |= whole[..., at].astype(np.uint32) << (8 * (at - byte))
        out[..., k] >>= shift
    out &= (1 << bits) - 1
    return out.reshape(rows, -1)[:, :vectors].astype(np.uint16)


def stack_codebooks(layout: VectorLayout, codebook: Codes, residual: Codes | None = None) -> Codes:
    """The codebooks as they are stored, int8 (layout.entries, layout.stride): entries, then bytes, filled up with 0.
    With layout.shared it is the tensor that the matrices share.

    codebook: int8 (at most 2**index_bits, length); residual: int8 (at most 2**residual_bits, length), or None if and
    only if the layout has none. ValueError for other shapes or a code of -128, which the kernels do not multiply."""
    out = np.zeros((layout.entries, layout.stride), np.int8)
    _put_codebook(out[: 1 << layout.index_bits], codebook, layout.length)
    if (residual is None) != (layout.residual_bits == 0):
        raise ValueError(f"a residual codebook goes with residual_bits, here {layout.residual_bits}")
    if residual is not None:
        _put_codebook(out[1 << layout.index_bits :], residual, layout.length)
    return out


def _put_codebook(to: Codes, codebook: Codes, length: int) -> None:
    if codebook.ndim != 2 or codebook.shape[1] != length or not 1 <= len(codebook) <= len(to):
        raise ValueError(f"a codebook of shape {codebook.shape}; at most {len(to)} x {length} fit the layout")
    if codebook.dtype != np.int8 or codebook.min() < -_LARGEST_CODE:
        raise ValueError("codebook entries are int8 from -127 to 127")
    to[: len(codebook), :length] = codebook


def split_codebooks(layout: VectorLayout, stacked: Codes) -> tuple[Codes, Codes | None]:
    """stack_codebooks' inverse: (codebook, residual), int8 (2**bits, length). ValueError for another shape."""
    if stacked.shape != (layout.entries, layout.stride):
        raise ValueError(f"the codebooks are {layout.entries} x {layout.stride}, not {stacked.shape}")
    first = stacked[: 1 << layout.index_bits, : layout.length]
    return first, stacked[1 << layout.index_bits :, : layout.length] if layout.residual_bits else None


def pack_vector(parts: VectorParts) -> Blob:
    """The blob of a whole matrix. Codebooks may have fewer entries than the layout has room for; with layout.shared
    they are checked against, and not stored.

    ValueError if shapes, dtypes or the layout do not belong together, an index has no entry, a row scale is not finite,
    or a sum of codes leaves [-127, 127]."""
    layout, rows, columns = parts.layout, len(parts.indices), parts.columns
    if not layout.valid:
        raise ValueError(f"{layout} is not a layout that the format has")
    stacked = stack_codebooks(layout, parts.codebook, parts.residual)
    _check_parts(parts)
    header = BlobHeader(Format.VECTOR, rows, columns, layout.group, layout.flags, parts.scale)
    at = layout.sections(rows, columns)
    payload = np.zeros(header.payload_bytes, np.uint8)

    def put(section: int, values: NDArray[np.generic]) -> None:
        data = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
        payload[section : section + len(data)] = data

    if not layout.shared:
        put(0, stacked)
    put(at["row_scales"], parts.row_scales.astype("<f2"))
    put(at["outlier_columns"], parts.outlier_columns.astype("<u4"))
    put(at["outlier_values"], parts.outlier_values)
    step = chunk_rows(columns)
    for begin in range(0, rows, step):  # in chunks of rows: the temporaries are larger than what they become
        chunk = slice(begin, begin + step)
        for name, indices, bits in (
            ("indices", parts.indices, layout.index_bits),
            ("residual_indices", parts.residual_indices, layout.residual_bits),
        ):
            if indices is not None:
                put(at[name] + begin * layout.row_bytes(columns, bits), pack_indices(indices[chunk], bits))
    return Blob(header, payload.data)


def _check_parts(parts: VectorParts) -> None:
    layout = parts.layout
    rows, vectors = parts.indices.shape
    if rows < 1 or vectors != -(-parts.columns // layout.length):
        raise ValueError(f"indices {parts.indices.shape} for {parts.columns} columns of vectors of {layout.length}")
    if parts.row_scales.shape != (rows,) or parts.row_scales.dtype != np.float16:
        raise ValueError(f"row scales are float16 ({rows},)")
    if not np.isfinite(parts.row_scales).all():
        raise ValueError("a row scale is not finite as fp16: choose the matrix's scale larger")
    if (parts.residual_indices is None) != (parts.residual is None):
        raise ValueError("residual indices go with a residual codebook")
    for indices, book in ((parts.indices, parts.codebook), (parts.residual_indices, parts.residual)):
        if indices is None or book is None:
            continue
        if indices.shape != (rows, vectors) or int(indices.max()) >= len(book) or int(indices.min()) < 0:
            raise ValueError(f"indices are ({rows}, {vectors}), each below {len(book)}")
    columns = parts.outlier_columns
    if columns.shape != (layout.outliers,) or parts.outlier_values.shape != (rows, layout.outliers):
        raise ValueError(f"outliers are {layout.outliers} columns and {rows} x {layout.outliers} values")
    if layout.outliers == 0 and parts.residual is None:
        return
    if parts.outlier_values.dtype != np.int8:
        raise ValueError("outlier values are int8")
    wide = columns.astype(np.int64)
    if layout.outliers and (wide[0] < 0 or wide[-1] >= parts.columns or (np.diff(wide) <= 0).any()):
        raise ValueError("outlier columns are below the number of columns and ascend")
    step = chunk_rows(parts.columns)
    for begin in range(0, rows, step):
        if _largest_sum(parts, slice(begin, begin + step)) > _LARGEST_CODE:
            raise ValueError("a sum of codebook, residual and outlier codes leaves -127..127")


def _largest_sum(parts: VectorParts, rows: slice) -> int:
    """max |q| over the rows, without wrapping around."""
    q = parts.codebook[parts.indices[rows]].astype(np.int16)
    if parts.residual is not None and parts.residual_indices is not None:
        q += parts.residual[parts.residual_indices[rows]]
    flat = q.reshape(len(q), -1)[:, : parts.columns]
    flat[:, parts.outlier_columns] += parts.outlier_values[rows]
    return int(np.abs(flat).max())


def unpack_vector(blob: Blob, codebook: Codes | None = None, begin: int = 0, end: int | None = None) -> VectorParts:
    """Rows begin..end-1 (all of them without `end`) of a blob.

    codebook: int8 (entries, stride), the shared tensor, for a blob that says so and for no other.
    BlobError if the blob is of another format, lacks its codebook, or has outlier columns that are out of order."""
    header = blob.header
    if header.format is not Format.VECTOR:
        raise BlobError(f"a blob of format {header.format.name}, not VECTOR")
    layout = VectorLayout.from_flags(header.flags)
    if layout.shared != (codebook is not None):
        raise BlobError(f"the codebook of this blob is {'another tensor' if layout.shared else 'its own'}")
    rows, columns = header.rows, header.columns
    end = rows if end is None else end
    at = layout.sections(rows, columns)
    payload = np.frombuffer(blob.payload, np.uint8)
    if len(payload) != at["end"] or payload[-VECTOR_SLACK:].any():
        raise BlobError(f"a vector blob's payload has {at['end']} bytes, the last {VECTOR_SLACK} of them 0")

    def section(name: str, width: int) -> Bytes:
        """Rows begin..end-1 of a section of `width` bytes a row."""
        return payload[at[name] + begin * width : at[name] + end * width].reshape(end - begin, width)

    def indices(name: str, bits: int) -> Indices:
        return unpack_indices(section(name, layout.row_bytes(columns, bits)), -(-columns // layout.length), bits)

    if codebook is None:
        codebook = payload[: layout.entries * layout.stride].view(np.int8).reshape(layout.entries, layout.stride)
    first, residual = split_codebooks(layout, codebook)
    outliers = payload[at["outlier_columns"] : at["outlier_values"]].view("<u4").astype(np.uint32)
    if layout.outliers and (outliers[-1] >= columns or (np.diff(outliers.astype(np.int64)) <= 0).any()):
        raise BlobError("outlier columns of the vector blob are out of order")
    return VectorParts(
        layout,
        columns,
        header.scale,
        section("row_scales", 2).view("<f2")[:, 0].astype(np.float16),
        first,
        residual,
        indices("indices", layout.index_bits),
        indices("residual_indices", layout.residual_bits) if layout.residual_bits else None,
        outliers,
        section("outlier_values", layout.outliers).view(np.int8),
    )


def decode_vector(
    blob: Blob, codebook: Codes | None = None, begin: int = 0, end: int | None = None
) -> NDArray[np.float32]:
    """float32 (end - begin, columns): the reference that the kernels are held to; arguments as unpack_vector's."""
    return unpack_vector(blob, codebook, begin, end).weights()
