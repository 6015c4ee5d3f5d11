"""Codecs and recipes by name, collected from the codecs' files (formats.CODEC_FILES).

A short name, such as `affine-4bit`, stands for the best setting measured at that many bits (docs/FORMAT.md, section 3);
a full name, such as `affine-4bit-g32-asym`, asks for exactly that one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from importlib import import_module

from mobile_bundle.codecs.affine import AffineCodec
from mobile_bundle.codecs.blob import FLAG_E4M4
from mobile_bundle.codecs.codec import StreamCodec
from mobile_bundle.codecs.declaration import Declaration, Trial, all_rules, declare
from mobile_bundle.codecs.entropy import SUFFIX, EntropyCodec
from mobile_bundle.codecs.formats import CODEC_FILES, Format
from mobile_bundle.codecs.kept import PREFIX, KeptCodec
from mobile_bundle.codecs.matrices import Matrix
from mobile_bundle.codecs.propagation import Ordered
from mobile_bundle.codecs.sign import SignCodec
from mobile_bundle.codecs.source import Floats
from mobile_bundle.errors import ArgumentError


def _collect() -> list[Declaration]:
    """What the codecs' files declare. Their formats are known afterwards. ValueError where they do not fit together."""
    found: list[Declaration] = [import_module(f"mobile_bundle.codecs.{name}").DECLARATION for name in CODEC_FILES]
    for declaration in found:
        for rules in declaration.formats:
            declare(rules)
    missing = set(Format) - {rules.format for rules in all_rules()}
    if missing:
        raise ValueError(f"no codec's file declares {', '.join(sorted(format.name for format in missing))}")
    return found


_DECLARATIONS = _collect()
_CODECS: dict[str, StreamCodec] = {codec.name: codec for each in _DECLARATIONS for codec in each.codecs}
RECIPE_EMBEDDINGS: dict[str, str] = {name: codec for each in _DECLARATIONS for name, codec in each.recipes.items()}
"""Recipes that are named after the codec of the projections, and the codec of each one's embedding and output head:
every token passes through these, so they keep at least 4 bits."""
GAUSSIAN_ERROR: dict[str, float] = {
    name: error for each in _DECLARATIONS for name, error in each.gaussian_error.items()
}
"""||W - W'||^2 / ||W||^2 of Gaussian weights, without data, of every codec that a plan may choose
(tests/toolchain/planning measures them). With calibration the loss of a matrix is this share of its sensitivity."""


@functools.cache
def worth_choosing(columns: int) -> frozenset[str]:
    """The names of GAUSSIAN_ERROR but for those that another of the same file beats in a matrix of so many columns: no
    larger, with a smaller error. So a group that does not divide the columns falls out where a smaller one does."""
    chosen: set[str] = set()
    for declaration in _DECLARATIONS:
        errors = declaration.gaussian_error
        size = {name: codec_by_name(name).blob_bytes(1, columns) for name in errors}
        chosen |= {
            name for name in errors if not any(size[o] <= size[name] and errors[o] < errors[name] for o in errors)
        }
    return frozenset(chosen)


def try_candidates(weight: Floats, hessian: Matrix, names: Iterable[str]) -> dict[str, Floats]:
    """What coding with error propagation would do to a few rows of a matrix: D H D^T of every row, float32 (rows,), by
    the codec's name.

    weight: float32 (rows, columns), as the values are; hessian: (columns, columns), as Stats has it; names: of
    GAUSSIAN_ERROR."""
    tried: dict[str, Floats] = {}
    for kind in tried_together(names):
        tried |= try_kind(kind, weight, ordered_for(kind, hessian))
    return tried


def tried_together(names: Iterable[str]) -> list[list[str]]:
    """The names by their codecs' files: one Hessian in one order of rounding serves each of these lists."""
    wanted = set(names)
    kinds = ([name for name in each.gaussian_error if name in wanted] for each in _DECLARATIONS if each.trial)
    return [kind for kind in kinds if kind]


def ordered_for(kind: Sequence[str], hessian: Matrix) -> Ordered:
    """The Hessian in the order in which codecs that are tried together round its columns, for a trial."""
    return Ordered.of(hessian, _trial(kind).order(hessian), quick=True)


def try_kind(kind: Sequence[str], weight: Floats, ordered: Ordered) -> dict[str, Floats]:
    """try_candidates of codecs that are tried together; ordered: ordered_for's."""
    errors = _trial(kind).errors(weight, ordered, [codec_by_name(name) for name in kind])
    return dict(zip(kind, errors, strict=True))


def _trial(kind: Sequence[str]) -> Trial:
    return next(each.trial for each in _DECLARATIONS if each.trial and kind[0] in each.gaussian_error)


def codec_names() -> list[str]:
    """The short names, as a command lists them."""
    return list(_CODECS)


def codec_by_name(name: str) -> StreamCodec:
    """UserError for a name that is not known."""
    if name in _CODECS:
        return _CODECS[name]
    if name.endswith(SUFFIX):
        return _entropy_coded(name.removesuffix(SUFFIX))
    if name.startswith(PREFIX):
        return _kept(name.removeprefix(PREFIX))
    for declaration in _DECLARATIONS:
        codec = declaration.full_name(name) if declaration.full_name else None
        if codec:
            return codec
    known = [*codec_names(), *(each.full_names for each in _DECLARATIONS if each.full_names)]
    raise ArgumentError(
        f"unknown codec {name!r}; known: {', '.join(known)}; and any of them that is not a stored form, with {SUFFIX}"
    )


def entropy_coded(codec: StreamCodec) -> StreamCodec:
    """The codec with the lossless stage behind it; stored forms have none."""
    return codec if codec.rules.stored else EntropyCodec(codec)


def _kept(name: str) -> KeptCodec:
    inner = codec_by_name(name)
    if not isinstance(inner, (AffineCodec, SignCodec)) or inner.flags & FLAG_E4M4:
        raise ArgumentError(f"unknown codec {PREFIX + name!r}: only affine and sign codes with fp16 scales can be kept")
    return KeptCodec(inner)


def _entropy_coded(name: str) -> StreamCodec:
    inner = codec_by_name(name)
    if inner.rules.stored:
        raise ArgumentError(f"codec {name} makes a stored form already, which cannot be entropy-coded: drop {SUFFIX!r}")
    return EntropyCodec(inner)
