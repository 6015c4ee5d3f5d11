"""What a build does with the codes of a quantised file, for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from mobile_bundle.codecs import StreamCodec
from mobile_bundle.codecs.kept import PREFIX
from mobile_bundle.models import TensorSpec

_FLOATS = ("F32", "F16", "BF16")


def carried_over(tensors: Iterable[TensorSpec], assignment: Mapping[str, StreamCodec]) -> list[str]:
    """A line per type of the file and codec; none for a model whose file is not quantised."""
    found: Counter[tuple[str, str, bool]] = Counter()
    for tensor in tensors:
        if tensor.stored:
            codec = assignment[tensor.name]
            found[tensor.stored, codec.name, codec.carries_codes] += 1
    return [_line(count, *key) for key, count in found.most_common()]


def _line(count: int, stored: str, codec: str, kept: bool) -> str:
    what = f"{count} {'matrix' if count == 1 else 'matrices'} of type {stored}"
    if kept:
        return f"{what}: carried over exactly, as {codec.replace(PREFIX, '')}"
    return f"{what}: {'' if stored in _FLOATS else 'dequantised and '}coded as {codec}"
