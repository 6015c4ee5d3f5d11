"""Fake quantisation: the values that a packed format decodes to, as a function with gradients.

Every format rounds v = (w - m) / d to one of its levels and stands for d * level + m. The forward pass has exactly the
values of the packed format's decoder, the rounding of d and m to the dtype in which they are stored included. Backward,
rounding counts as the identity (straight-through: Bengio et al. 2013, arXiv:1308.3432), so that d and m learn as in
LSQ+ (Bhalgat et al. 2020, arXiv:2004.09576). Weights up to half a step outside the outermost level keep their
gradient, as in ParetoQ's stretched grids (Liu et al. 2025, arXiv:2502.02631, section 3.2); without that, ternary
weights stick at the ends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mobile_bundle.codecs import StreamCodec
from mobile_bundle.codecs.affine import AffineCodec
from mobile_bundle.codecs.affine_fit import Fit, fit_symmetric
from mobile_bundle.codecs.affine_propagated import Grid as RoundingGrid
from mobile_bundle.codecs.affine_propagated import Rounding, fit_propagated
from mobile_bundle.codecs.affine_steps import HALVES
from mobile_bundle.codecs.bitnet import BitnetCodec
from mobile_bundle.codecs.source import Floats
from mobile_bundle.codecs.sparse_ternary import SparseTernaryCodec
from mobile_bundle.codecs.stats import Stats
from mobile_bundle.codecs.vector_blob import unpack_vector
from mobile_bundle.codecs.vector_layout import VectorLayout
from mobile_bundle.codecs.vptq import VptqCodec
from mobile_bundle.errors import UnsupportedError
from mobile_bundle.healing.rounding import not_zero, rounded, steps_of

_STRETCH = 0.49
"""Steps beyond the outermost level in which a weight keeps its gradient. Less than a half: at 0.5 it would round to a
level that the format does not have."""
_HEADROOM = 8
"""Growth of the largest weight that fp16 scales have room for in training."""
_LARGEST_HALF = 65504.0
_BOOK_STEPS = 256.0
"""Steps of a codebook's whole numbers in its unit as it is trained: so that a rate suits it as it suits scales."""
_LARGEST_CODE = 127.0
_POINTS = 1 << 18
"""Vectors whose distances are in memory together."""
_REFITS = 12
_TERNARY_SHRINK = (0.7, 0.5, 0.35, 0.25)
"""Ranges to begin the search for a ternary scale with."""


@dataclass(frozen=True)
class Start:
    """What training begins with. weight: float32 (rows, columns); scale, offset: float32 of the grid's shape, offset
    None where it has none, and the codebook of a grid of vectors; unit: the power of two in which fp16 scales are
    stored (1 for float32 scales)."""

    weight: Floats
    scale: Floats
    offset: Floats | None
    unit: float


class Grid(ABC):
    """A codec's values for matrices of so many columns. One object serves all matrices of a kind."""

    def __init__(self, codec: StreamCodec, columns: int) -> None:
        self.codec, self.columns = codec, columns

    @property
    def activation_group(self) -> int:
        """Columns of the input that share an int8 scale in the engine; 0: all of a token."""
        group = self.codec.activation_group
        assert group is not None  # no grid multiplies by float32
        return group

    @abstractmethod
    def start(self, weight: Floats, stats: Stats | None) -> Start:
        """Scales of least squared error; with stats, the calibrated code of the matrix. weight: float32 (rows,
        columns)."""

    @abstractmethod
    def values(
        self, weight: Tensor, scale: Tensor, offset: Tensor | None, unit: Tensor, softness: Tensor | None = None
    ) -> Tensor:
        """The matrix as the packed format decodes it, of the weight's shape.

        softness: a scalar, 0 or None for the format; up to 1, for a format that can begin softer: SparseGrid."""

    @abstractmethod
    def codes(self, weight: Tensor, scale: Tensor, offset: Tensor | None, unit: Tensor) -> Tensor:
        """What the weights are rounded to: levels, or numbers of vectors; float32 of the weight's shape."""

    @abstractmethod
    def decoded(self, codes: Tensor, scale: Tensor, offset: Tensor | None, unit: Tensor) -> Tensor:
        """The values of these codes, with gradients by scale and offset. Those of `values` are none where a weight lies
        on its level, as in a calibrated code: rounding passes the weight through, whatever the scale."""


def make_grid(codec: StreamCodec, columns: int) -> Grid:
    """UnsupportedError for a codec that cannot be trained, and for columns that it has no exact form for."""
    if isinstance(codec, AffineCodec) and not codec.e4m4:
        return AffineGrid(codec, columns)
    if isinstance(codec, SparseTernaryCodec):
        if columns % 4:
            raise UnsupportedError(f"{codec.name} needs a multiple of 4 columns, here are {columns}")
        return SparseGrid(codec, columns)
    if isinstance(codec, BitnetCodec):
        return TernaryGrid(codec, columns)
    if isinstance(codec, VptqCodec) and _is_plain(codec.layout):
        return VectorGrid(codec, columns)
    raise UnsupportedError(
        f"{codec.name} cannot be healed",
        "use bitnet-row, bitnet, bitnet-1.25bit, bitnet-1.25bit-row, vptq-2bit or an affine code with scales of fp16",
    )


def _is_plain(layout: VectorLayout) -> bool:
    """Whether codecs/grids.py finds a trained matrix of this layout again."""
    return layout == VectorLayout(4, 8)


class AffineGrid(Grid):
    """d (and m) in fp16 per row and group of columns."""

    codec: AffineCodec

    def start(self, weight: Floats, stats: Stats | None) -> Start:
        blob = self.codec.encode(weight, stats)
        scale, offset = self.codec.steps(blob)
        begin = weight if stats is None else self.codec.decode(blob)
        return Start(begin, scale, offset if self.codec.asymmetric else None, blob.header.scale * _HEADROOM)

    def values(
        self, weight: Tensor, scale: Tensor, offset: Tensor | None, unit: Tensor, softness: Tensor | None = None
    ) -> Tensor:
        d, m = _steps(scale, offset, unit)
        return self._ungrouped(_rounded(self._grouped(weight), d, m, *self.codec.levels))

    def codes(self, weight: Tensor, scale: Tensor, offset: Tensor | None, unit: Tensor) -> Tensor:
        d, m = _steps(scale, offset, unit)
        return self._ungrouped(_levels(self._grouped(weight), d, m, *self.codec.levels))

    def decoded(self, codes: Tensor, scale: Tensor, offset: Tensor | None, unit: Tensor) -> Tensor:
        return self._ungrouped(_values(self._grouped(codes), *_steps(scale, offset, unit)))

    def _grouped(self, values: Tensor) -> Tensor:
        """(rows, groups, group), with zeros behind the last column."""
        missing = -self.columns % self.codec.group
        padded = functional.pad(values, (0, missing)) if missing else values  # a pad of nothing is a copy
        return padded.view(len(values), -1, self.codec.group)

    def _ungrouped(self, values: Tensor) -> Tensor:
        return values.flatten(1)[:, : self.columns]


class TernaryGrid(Grid):
    """One float32 scale per row or per matrix."""

    codec: BitnetCodec

    def start(self, weight: Floats, stats: Stats | None) -> Start:
        if stats is not None and stats.hessian is not None and self.codec.row_scales:
            return _propagated(weight, stats, stats.hessian)
        return Start(weight, _ternary_scale(weight, self.codec.row_scales), None, 1.0)

    def values(
        self, weight: Tensor, scale: Tensor, offset: Tensor | None, unit: Tensor, softness: Tensor | None = None
    ) -> Tensor:
        return _rounded(weight, scale, None, -1, 1)

    def codes(self, weight: Tensor, scale: Tensor, offset: Tensor | None, unit: Tensor) -> Tensor:
        return _levels(weight, scale, None, -1, 1)

    def decoded(self, codes: Tensor, scale: Tensor, offset: Tensor | None, unit: Tensor) -> Tensor:
        return codes * scale


class SparseGrid(Grid):
    """Of every four columns the smallest is zero, the others are the scale with their own sign.

    softness is how much of itself the smallest keeps: training may begin dense and end at 3 of 4, so that weights find
    their places before one of them is silenced (annealed as the residual of Huang et al. 2026, arXiv:2601.07892)."""

    codec: SparseTernaryCodec

    def start(self, weight: Floats, stats: Stats | None) -> Start:
        kept = np.abs(weight).reshape(len(weight), -1, 4)
        total = kept.sum(axis=(1, 2), dtype=np.float64) - kept.min(axis=2).sum(axis=1, dtype=np.float64)
        scale = (total / (weight.shape[1] // 4 * 3)).astype(np.float32)[:, None]
        if not self.codec.row_scales:
            scale = scale.mean(keepdims=True)
        return Start(weight, _positive(scale), None, 1.0)

    def values(
        self, weight: Tensor, scale: Tensor, offset: Tensor | None, unit: Tensor, softness: Tensor | None = None
    ) -> Tensor:
        v = (weight / not_zero(scale)).clamp(-1 - _STRETCH, 1 + _STRETCH)
        with torch.no_grad():
            groups = weight.view(len(weight), -1, 4)
            smallest = groups.abs().argmin(2, keepdim=True)
            own = v.view_as(groups).gather(2, smallest)
            kept = torch.zeros_like(own) if softness is None else softness * own
            level = torch.where(groups < 0, -1.0, 1.0).scatter(2, smallest, kept)
        return (v + (level.view_as(v) - v).detach()) * scale

    def codes(self, weight: Tensor, scale: Tensor, offset: Tensor | None, unit: Tensor) -> Tensor:
        return self.values(weight, torch.ones_like(scale), offset, unit)

    def decoded(self, codes: Tensor, scale: Tensor, offset: Tensor | None, unit: Tensor) -> Tensor:
        return codes * scale


class VectorGrid(Grid):
    """Vectors of a row are entries of the matrix's codebook, times the row's scale. The codebook, in units of
    1 / _BOOK_STEPS, is the offset; it learns with the scales. A vector takes the entry that is nearest to it in every
    forward pass, so codes change as weights and codebook do."""

    codec: VptqCodec

    def start(self, weight: Floats, stats: Stats | None) -> Start:
        blob = self.codec.encode(weight, stats)
        parts = unpack_vector(blob)
        scale = parts.row_scales.astype(np.float32)[:, None] * np.float32(parts.scale * _BOOK_STEPS)
        begin = weight if stats is None else parts.weights()
        book = parts.codebook.astype(np.float32) / np.float32(_BOOK_STEPS)
        return Start(begin, scale, book, blob.header.scale * _HEADROOM)

    def values(
        self, weight: Tensor, scale: Tensor, offset: Tensor | None, unit: Tensor, softness: Tensor | None = None
    ) -> Tensor:
        d, book = self._steps(scale, offset, unit)
        v = self._vectors(weight / not_zero(d))
        chosen = book[_nearest(v.detach(), book.detach())]
        codes = chosen + (v - v.detach())  # the second part is zero; by it the weights have their gradient
        return self._rows(codes, weight) * d

    def codes(self, weight: Tensor, scale: Tensor, offset: Tensor | None, unit: Tensor) -> Tensor:
        """The number of a column's vector."""
        d, book = self._steps(scale, offset, unit)
        numbers = _nearest(self._vectors(weight / not_zero(d)), book)
        return self._rows(numbers[:, None].expand(-1, self.codec.layout.length), weight).to(weight.dtype)

    def decoded(self, codes: Tensor, scale: Tensor, offset: Tensor | None, unit: Tensor) -> Tensor:
        d, book = self._steps(scale, offset, unit)
        return self._rows(book[self._vectors(codes)[:, 0].long()], codes) * d

    def _steps(self, scale: Tensor, offset: Tensor | None, unit: Tensor) -> tuple[Tensor, Tensor]:
        """The rows' scales and the codebook, as they are stored."""
        assert offset is not None
        scaled = (offset * _BOOK_STEPS).clamp(-_LARGEST_CODE, _LARGEST_CODE)
        return _half(scale.abs() / _BOOK_STEPS, unit), scaled + (scaled.round() - scaled).detach()

    def _vectors(self, values: Tensor) -> Tensor:
        length = self.codec.layout.length
        return functional.pad(values, (0, -self.columns % length)).view(-1, length)

    def _rows(self, vectors: Tensor, like: Tensor) -> Tensor:
        return vectors.reshape(len(like), -1)[:, : self.columns]


def _nearest(points: Tensor, book: Tensor) -> Tensor:
    """The number of the entry nearest to each point, int64 (points,)."""
    with torch.autocast(points.device.type, enabled=False):
        far = book.square().sum(1) / 2
        return torch.cat([(far - part @ book.T).argmin(1) for part in points.split(_POINTS)])  # type: ignore[no-untyped-call]


def _steps(scale: Tensor, offset: Tensor | None, unit: Tensor) -> tuple[Tensor, Tensor | None]:
    """d and m of groups as they are stored, (rows, groups, 1)."""
    return _half(scale, unit)[..., None], None if offset is None else _half(offset, unit)[..., None]


def _levels(w: Tensor, d: Tensor, m: Tensor | None, low: int, high: int) -> Tensor:
    """Whole numbers from low to high. d, m: broadcast to w."""
    v = steps_of(w, d, m).clamp(low - _STRETCH, high + _STRETCH)
    return v + (v.round() - v).detach()  # exactly the whole number: the difference is exact


def _rounded(w: Tensor, d: Tensor, m: Tensor | None, low: int, high: int) -> Tensor:
    """_values of _levels."""
    if w.device.type == "cpu":
        return rounded(w, d, m, low - _STRETCH, high + _STRETCH)
    return _values(_levels(w, d, m, low, high), d, m)


def _values(level: Tensor, d: Tensor, m: Tensor | None) -> Tensor:
    return level * d if m is None else level * d + m


def _half(x: Tensor, unit: Tensor) -> Tensor:
    """x rounded to fp16 in units of `unit`, a power of two."""
    scaled = (x / unit).clamp(-_LARGEST_HALF, _LARGEST_HALF)
    return (scaled + (scaled.half().float() - scaled).detach()) * unit


def _ternary_scale(weight: Floats, by_row: bool) -> Floats:
    """Of least squared error, float32 (rows, 1) or (1, 1): Lloyd's algorithm from the mean magnitude."""
    w = weight if by_row else weight.reshape(1, -1)
    scale = _positive(np.abs(w).mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32))
    for _ in range(_REFITS):
        level = np.clip(np.rint(w / scale), -1, 1)
        count = np.square(level).sum(axis=1, keepdims=True)
        scale = _positive(np.divide((level * w).sum(axis=1, keepdims=True), count, out=scale, where=count > 0))
    return scale


def _positive(scale: Floats) -> Floats:
    """No scale is zero: a row of zeros gets 1, and all its codes are zero."""
    return np.where(scale > 0, scale, np.float32(1)).astype(np.float32)


def _propagated(weight: Floats, stats: Stats, hessian: Floats) -> Start:
    """Ternary rows with error propagation, as the affine codes have it. The scales are fp16 here; they learn."""
    unit = np.float32(2.0 ** np.floor(np.log2(max(float(np.abs(weight).max()), 1e-30))))

    def fit(w: Floats, counts: Floats | None) -> Fit:
        return fit_symmetric(w, -1, 1, _TERNARY_SHRINK, _REFITS, counts)

    rounding = Rounding.of(hessian)
    found = fit_propagated(stats.target(weight) / unit, rounding, RoundingGrid(weight.shape[1], -1, 1, fit, HALVES))
    scale = np.abs(found.d.astype(np.float32)) * unit
    return Start(found.values * unit, _positive(scale), None, 1.0)
