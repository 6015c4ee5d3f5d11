"""Answers in a given form, by the runtime: which tokens may come next."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.native.library import check, declared
from mobile_bundle.native.tokenizer import Tokenizer, opened

JSON_SCHEMA, REGEX = 0, 1
"""mb_constraint_kind."""


@functools.cache
def _library() -> ctypes.CDLL:
    pointer, size, flag = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_bool
    ids, words = ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_uint32)
    return declared({
        "mb_vocabulary_open": [pointer, ctypes.c_uint32, ids, size, ctypes.POINTER(pointer)],
        "mb_vocabulary_close": [pointer],
        "mb_vocabulary_bytes": [pointer],
        "mb_constraint_most_bytes": [pointer, ctypes.c_uint32],
        "mb_constraint_open": [pointer, ctypes.c_int, ctypes.c_char_p, size, ctypes.POINTER(pointer)],
        "mb_constraint_close": [pointer],
        "mb_constraint_bytes": [pointer],
        "mb_constraint_begin": [pointer],
        "mb_constraint_allowed": [pointer, ctypes.POINTER(words)],
        "mb_constraint_accept": [pointer, ctypes.c_int32],
        "mb_constraint_fitting": [pointer, ids, size],
        "mb_constraint_may_end": [pointer],
        "mb_constraint_complete": [pointer],
    }, {
        "mb_vocabulary_close": None,
        "mb_vocabulary_bytes": ctypes.c_uint64,
        "mb_constraint_most_bytes": ctypes.c_uint64,
        "mb_constraint_close": None,
        "mb_constraint_bytes": ctypes.c_uint64,
        "mb_constraint_begin": None,
        "mb_constraint_fitting": size,
        "mb_constraint_may_end": flag,
        "mb_constraint_complete": flag,
    })  # fmt: skip


def _ids(tokens: Collection[int]) -> ctypes.Array[ctypes.c_int32]:
    return (ctypes.c_int32 * len(tokens))(*tokens)


def most_form_bytes(tokenizer: bytes, size: int) -> int:
    """The most memory that answers in a given form take, one at a time. tokenizer: tokenizer.bin; size: tokens of the
    model. UserError for a tokenizer that is damaged."""
    with opened(tokenizer) as handle:
        return int(_library().mb_constraint_most_bytes(handle, size))


class Vocabulary:
    """The bytes of a model's tokens as a trie: a context manager. size: tokens of the model; ends: those that end an
    answer. The tokenizer has to stay open."""

    def __init__(self, tokenizer: Tokenizer, size: int, ends: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self.size = size
        self.handle = ctypes.c_void_p()
        check(_library().mb_vocabulary_open(tokenizer.handle, size, _ids(ends), len(ends), ctypes.byref(self.handle)))

    def __enter__(self) -> Vocabulary:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees it."""
        _library().mb_vocabulary_close(self.handle)
        self.handle = ctypes.c_void_p()

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return int(_library().mb_vocabulary_bytes(self.handle))


class Constraint:
    """One answer under way: a context manager. kind: JSON_SCHEMA or REGEX; text: the schema or the expression.

    ArgumentError for one that is not valid or not supported."""

    def __init__(self, vocabulary: Vocabulary, kind: int, text: str) -> None:
        self._vocabulary = vocabulary
        self._handle = ctypes.c_void_p()
        data = text.encode("utf-8", "surrogatepass")
        check(_library().mb_constraint_open(vocabulary.handle, kind, data, len(data), ctypes.byref(self._handle)))

    def __enter__(self) -> Constraint:
        return self

    def __exit__(self, *_: object) -> None:
        _library().mb_constraint_close(self._handle)
        self._handle = ctypes.c_void_p()

    @property
    def bytes(self) -> int:
        """Memory that it may take, at most."""
        return int(_library().mb_constraint_bytes(self._handle))

    def begin(self) -> None:
        """Begins another answer of the same form."""
        _library().mb_constraint_begin(self._handle)

    def allowed(self) -> NDArray[np.uint32]:
        """The tokens that may come next: bit t % 32 of entry t // 32, valid until the next call.

        ArgumentError where the vocabulary has none."""
        words = ctypes.POINTER(ctypes.c_uint32)()
        check(_library().mb_constraint_allowed(self._handle, ctypes.byref(words)))
        return np.ctypeslib.as_array(words, ((self._vocabulary.size + 31) // 32,))

    def accept(self, token: int) -> None:
        """The next token. ArgumentError for one that is not allowed."""
        check(_library().mb_constraint_accept(self._handle, token))

    def fitting(self, tokens: Sequence[int]) -> int:
        """How many of the next tokens it would accept."""
        return int(_library().mb_constraint_fitting(self._handle, _ids(tokens), len(tokens)))

    @property
    def may_end(self) -> bool:
        """Whether the answer is whole."""
        return bool(_library().mb_constraint_may_end(self._handle))

    @property
    def complete(self) -> bool:
        """Whether it is whole and nothing can follow."""
        return bool(_library().mb_constraint_complete(self._handle))
