"""Which code points a set of characters has, asked of the `tokenizers` package itself.

Its regular expressions (Oniguruma), its Digits and its Punctuation step carry Unicode tables of different versions, and
the runtime has to agree with the package, not with a version of the standard.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import InstallationError

CODE_POINTS = 0x110000
_SURROGATES = range(0xD800, 0xE000)
_ASSIGNED = 0x33500
"""Every code point below is asked about. Above, only tags have single properties; the rest is planes of one kind, of
which the first of each 256 is asked."""
_TAGS = range(0xE0000, 0xE1000)
_BLOCK = 4096  # code points asked about at once

Members = NDArray[np.bool_]
"""bool[CODE_POINTS]: which code points a set has."""


def library() -> Any:
    """The `tokenizers` package. Raises InstallationError where it is missing."""
    try:
        import tokenizers
    except ImportError:
        raise InstallationError(
            "this tokenizer's split is compiled with the help of the tokenizers package",
            "install it with: pip install tokenizers",
        ) from None
    return tokenizers


@functools.cache
def _blocks(every: bool) -> list[tuple[NDArray[np.uint32], str]]:
    """The code points that are asked about, some thousands at a time, and the same as text."""
    points = np.arange(CODE_POINTS, dtype=np.uint32)
    wanted = np.ones(CODE_POINTS, np.bool_)
    if not every:
        wanted = (points < _ASSIGNED) | ((points & 0xFF) == 0)
        wanted[_TAGS.start : _TAGS.stop] = True
    wanted[_SURROGATES.start : _SURROGATES.stop] = False
    asked = points[wanted]
    blocks = [asked[at : at + _BLOCK] for at in range(0, len(asked), _BLOCK)]
    return [(block, block.tobytes().decode("utf-32-le")) for block in blocks]


def _members(left_over: Callable[[str], str], every: bool) -> Members:
    """left_over: a text without the characters of the set."""
    members = np.zeros(CODE_POINTS, np.bool_)
    for block, text in _blocks(every):
        members[block] = True
        members[np.frombuffer(left_over(text).encode("utf-32-le"), np.uint32)] = False
    if not every:
        for first in range(_ASSIGNED, CODE_POINTS, 0x100):
            if first not in _TAGS:
                members[first : first + 0x100] = members[first]
    return members


@functools.lru_cache(maxsize=128)
def of_expression(expression: str, every: bool = False) -> Members:
    """What an expression of one character matches. every: ask about each code point, for an expression that names
    characters above U+334FF. Raises ValueError when the package does not read the expression."""
    found = library()
    try:
        normalizer = found.normalizers.Replace(found.Regex(expression), "")
    except Exception as error:  # the package raises a bare Exception
        raise ValueError(str(error)) from None
    return _members(normalizer.normalize_str, every)


@functools.cache
def of_step(name: str) -> Members:
    """What the step of this name (Digits, Punctuation, WhitespaceSplit) takes for its characters."""
    steps = library().pre_tokenizers
    step = steps.WhitespaceSplit() if name == "WhitespaceSplit" else getattr(steps, name)()
    if name == "WhitespaceSplit":
        return _members(lambda text: "".join(piece for piece, _ in step.pre_tokenize_str(text)), False)

    def left_over(text: str) -> str:
        """With letters between the characters, every one of the set is a piece of its own."""
        pieces = [piece for piece, _ in step.pre_tokenize_str("a".join(text))]
        alone = {piece for piece in pieces if len(piece) == 1 and piece != "a"}
        return "".join(character for character in text if character not in alone)

    return _members(left_over, False)
