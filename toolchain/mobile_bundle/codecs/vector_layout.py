"""Where the parts of a vector blob are, and how large it is (MB_FORMAT_VECTOR of packed_formats.h)."""

from __future__ import annotations

from dataclasses import dataclass

from mobile_bundle.codecs.blob import FLAG_SHARED_CODEBOOK, round_up
from mobile_bundle.codecs.formats import BlobError

VECTOR_SLACK = 16


@dataclass(frozen=True)
class VectorLayout:
    """What the flags of a vector blob say, and where the sections of its payload are (packed_formats.h).

    length 4..12; index_bits 8..16; residual_bits 0 or 8..16; outliers: columns with an int8 correction of their own;
    shared: the codebooks are another tensor. Offsets count from the start of the payload."""

    length: int
    index_bits: int
    residual_bits: int = 0
    outliers: int = 0
    shared: bool = False

    @staticmethod
    def from_flags(flags: int) -> VectorLayout:
        """BlobError if they are not valid."""
        layout = VectorLayout(flags >> 4 & 15, flags >> 8 & 31, flags >> 13 & 31, flags >> 18, bool(flags & 4))
        if flags & 11 or not layout.valid:
            raise BlobError(f"flags {flags:#x} are not valid for format VECTOR")
        return layout

    @property
    def valid(self) -> bool:
        bits = self.residual_bits
        return 4 <= self.length <= 12 and 8 <= self.index_bits <= 16 and (bits == 0 or 8 <= bits <= 16)

    @property
    def flags(self) -> int:
        return (
            FLAG_SHARED_CODEBOOK * self.shared
            | self.length << 4
            | self.index_bits << 8
            | self.residual_bits << 13
            | self.outliers << 18
        )

    @property
    def group(self) -> int:
        """Columns that share a scale of activations; 0: all."""
        return 128 if self.length in (4, 8) else 0

    @property
    def stride(self) -> int:
        """Bytes of one codebook entry."""
        return 4 if self.length == 4 else 8 if self.length <= 8 else 16

    @property
    def entries(self) -> int:
        """Entries of both codebooks."""
        return (1 << self.index_bits) + (1 << self.residual_bits if self.residual_bits else 0)

    def row_bytes(self, columns: int, bits: int) -> int:
        """Bytes of one row's indices of `bits` bits."""
        return (-(-columns // self.length) * bits + 7) // 8

    def sections(self, rows: int, columns: int) -> dict[str, int]:
        """Offsets of row_scales, outlier_columns, outlier_values, indices, residual_indices, and of the end."""
        at = {"row_scales": round_up(0 if self.shared else self.entries * self.stride, 64)}
        at["outlier_columns"] = round_up(at["row_scales"] + 2 * rows, 64)
        at["outlier_values"] = at["outlier_columns"] + 4 * self.outliers
        at["indices"] = round_up(at["outlier_values"] + self.outliers * rows, 64)
        end = at["indices"] + rows * self.row_bytes(columns, self.index_bits)
        at["residual_indices"] = end
        if self.residual_bits:
            at["residual_indices"] = round_up(end, 64)
            end = at["residual_indices"] + rows * self.row_bytes(columns, self.residual_bits)
        at["end"] = end + VECTOR_SLACK
        return at


def vector_bytes(rows: int, columns: int, group: int, flags: int) -> int:
    """The size rule of VECTOR. BlobError where flags, group and columns do not go together."""
    layout = VectorLayout.from_flags(flags)
    if group != layout.group or layout.outliers > columns:
        raise BlobError(f"group {group} and {layout.outliers} outlier columns are not valid for this vector blob")
    return layout.sections(rows, columns)["end"]
