"""What a codec's file declares: of each format it writes, and of the codecs it offers by name.

A codec's file ends in DECLARATION; registry.py collects those of formats.CODEC_FILES. So whatever must be known of a
format (its size, what it becomes at install, whether rows can be mapped apart) is written beside the code that packs
it, and the rest of the toolchain asks `rules_of`, or the codec itself, and never for a particular format or class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.formats import FIRST_STORED_FORMAT, WITHDRAWN_FORMATS, BlobError, Format

if TYPE_CHECKING:  # blob.py asks for sizes, codec.py for decoders: both import this file
    from mobile_bundle.codecs.blob import BlobHeader
    from mobile_bundle.codecs.codec import StreamCodec
    from mobile_bundle.codecs.matrices import Matrix
    from mobile_bundle.codecs.propagation import Ordered
    from mobile_bundle.codecs.source import Floats

SizeRule = Callable[[int, int, int, int], int]
"""(rows, columns, group, flags) -> payload bytes. Rows and columns are 1..2**28, the group one of `groups`, and no flag
is set but those of `flags`. BlobError where they do not go together all the same."""


@dataclass(frozen=True)
class Trial:
    """How the codecs of one file are tried. order: (hessian as Stats has it) -> the sequence in which they round its
    columns. errors: (a few rows of a matrix, float32 (rows, columns); the Hessian in that order; codecs of the file) ->
    D H D^T of every row if it were coded with error propagation, float32 (codecs, rows)."""

    order: Callable[[Matrix], NDArray[np.intp]]
    errors: Callable[[Floats, Ordered, Sequence[StreamCodec]], Floats]


@dataclass(frozen=True)
class Installed:
    """The packed format that a stored form is decoded to when a bundle is installed. Rows, columns and flags stay.

    codec: the short name of the codec that writes that format. group: the packed header's. keeps_scale: its scale is
    the stored header's; otherwise decoding finds it."""

    format: Format
    codec: str
    group: int = 0
    keeps_scale: bool = False


@dataclass(frozen=True)
class FormatRules:
    """What the toolchain must know of a format.

    decoder: makes the codec that decodes a blob with that header; None: nothing in Python does.
    decode_cost: time of a matrix-vector product per weight, relative to AFFINE4, from a cache (AVX2, one thread:
    benchmarks/kernels/decode_cost.py). None: nothing multiplies by it, as by vectors and stored forms.
    groups: values that the header's group may have; 0: the format has no groups. flags: bits that may be set.
    rows_apart: every 64 rows lie in one piece, so that a share of the rows can be mapped by itself.
    matrix: holds weights of matrices; not vectors or codebooks, which are small and never coded further.
    operator: torch.ops.mobile_bundle.linear_<format> multiplies by it (lower/ops.py, runtime/executorch/ops).
    installed: of a stored form, what it becomes; None for the others and where the blob itself says it (`wraps`).
    wraps: the payload begins with the header of the packed blob in it, and its size does not follow from the shape."""

    format: Format
    payload_bytes: SizeRule
    decoder: Callable[[BlobHeader], StreamCodec] | None
    decode_cost: float | None = None
    groups: tuple[int, ...] = (0,)
    flags: int = 0
    rows_apart: bool = True
    matrix: bool = True
    operator: bool = False
    installed: Installed | None = None
    wraps: bool = False

    @property
    def stored(self) -> bool:
        """Whether it is a stored form: decoded, at install, before it can be computed with."""
        return self.format >= FIRST_STORED_FORMAT


@dataclass(frozen=True)
class Declaration:
    """What one codec's file offers.

    codecs: those that are known by their short names. recipes: names that `--recipe` takes, each a codec's, and the
    codec of that recipe's embedding. gaussian_error: names of the codecs that a plan may choose, and ||W - W'||**2 /
    ||W||**2 of each on Gaussian weights, without data. full_name: the codec of a longer name, such as
    affine-4bit-g32-asym, or None if it is no name of this file; full_names: what these look like, for a message.
    trial: needed with gaussian_error."""

    formats: tuple[FormatRules, ...] = ()
    codecs: tuple[StreamCodec, ...] = ()
    recipes: Mapping[str, str] = field(default_factory=dict)
    gaussian_error: Mapping[str, float] = field(default_factory=dict)
    full_name: Callable[[str], StreamCodec | None] | None = None
    full_names: str = ""
    trial: Trial | None = None


_rules: dict[Format, FormatRules] = {}


def declare(rules: FormatRules) -> None:
    """Makes a format known. ValueError for one that is known already, and for a stored form that becomes nothing."""
    if rules.format in _rules:
        raise ValueError(f"format {rules.format.name} is declared twice")
    if rules.stored != (rules.installed is not None or rules.wraps):
        raise ValueError(f"format {rules.format.name}: a stored form, and no other, says what it becomes at install")
    _rules[rules.format] = rules


def all_rules() -> list[FormatRules]:
    """The formats that are declared, in the order of formats.CODEC_FILES."""
    return list(_rules.values())


def rules_of(format: int) -> FormatRules:
    """BlobError for a number that no format has."""
    if format in WITHDRAWN_FORMATS:
        raise BlobError(f"weight format {format} is a trellis code of an earlier version: build the bundle again")
    try:
        return _rules[Format(format)]
    except ValueError:
        raise BlobError(f"unknown weight format {format}; made by a newer version?") from None
