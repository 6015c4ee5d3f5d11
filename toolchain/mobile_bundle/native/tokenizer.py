"""tokenizer.bin, read by the runtime's own tokenizer."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import RuntimeFailure
from mobile_bundle.native.library import check, declared


@functools.cache
def _library() -> ctypes.CDLL:
    pointer, size, text, flag = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_bool
    tokens, count = ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_size_t)
    return declared({
        "mb_tokenizer_open": [text, ctypes.POINTER(pointer)],
        "mb_tokenizer_close": [pointer],
        "mb_tokenizer_encode": [pointer, text, size, flag, tokens, size, count],
        "mb_tokenizer_decode": [pointer, tokens, size, flag, text, size, count],
    }, {"mb_tokenizer_close": None})  # fmt: skip


class Tokenizer:
    """tokenizer.bin. Raises UserError when it is damaged."""

    def __init__(self, path: Path) -> None:
        self._handle = ctypes.c_void_p()
        check(_library().mb_tokenizer_open(os.fsencode(path), ctypes.byref(self._handle)))

    def close(self) -> None:
        """Unmaps the file."""
        _library().mb_tokenizer_close(self._handle)
        self._handle = ctypes.c_void_p()

    def encode(self, text: str | bytes, special: bool = False) -> NDArray[np.int32]:
        """Ids of a text (invalid UTF-8 counts as U+FFFD); `special`: with the tokenizer's own BOS template."""
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        count = ctypes.c_size_t()
        ids = np.empty(len(data) + 16, np.int32)
        pointer = ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        check(
            _library().mb_tokenizer_encode(
                self._handle, data, len(data), special, pointer, len(ids), ctypes.byref(count)
            )
        )
        if count.value > len(ids):
            raise RuntimeFailure("the tokenizer gave more tokens than the text has bytes")
        return ids[: count.value]

    def decode(self, ids: Sequence[int] | NDArray[np.int32], skip_special: bool = False) -> str:
        """Text of ids, as Hugging Face's decode gives it."""
        array = np.ascontiguousarray(ids, np.int32)
        pointer = array.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        count, capacity = ctypes.c_size_t(), 64 + 16 * len(array)
        while True:
            text = ctypes.create_string_buffer(capacity)
            check(
                _library().mb_tokenizer_decode(
                    self._handle, pointer, len(array), skip_special, text, capacity, ctypes.byref(count)
                )
            )
            if count.value <= capacity:
                return text.raw[: count.value].decode("utf-8", "replace")
            capacity = count.value
