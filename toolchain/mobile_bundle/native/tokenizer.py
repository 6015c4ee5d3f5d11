"""tokenizer.bin, read by the runtime's own tokenizer."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import RuntimeFailure
from mobile_bundle.native.library import check, declared

_SKIP_SPECIAL, _CONTINUES = 1, 2
"""MB_STREAM_*."""


class _Stream(ctypes.Structure):
    """mb_stream."""

    _fields_ = [
        ("tokenizer", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("strip", ctypes.c_uint32),
        ("pending_bytes", ctypes.c_uint32),
        ("whole_bytes", ctypes.c_uint32),
        ("broken", ctypes.c_bool),
        ("pending", ctypes.c_uint8 * 256),
    ]


@functools.cache
def _library() -> ctypes.CDLL:
    pointer, size, text, flag = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_bool
    tokens, count = ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_size_t)
    stream = ctypes.POINTER(_Stream)
    return declared({
        "mb_tokenizer_open": [text, ctypes.POINTER(pointer)],
        "mb_tokenizer_open_memory": [pointer, size, flag, ctypes.POINTER(pointer)],
        "mb_tokenizer_close": [pointer],
        "mb_tokenizer_pieces": [pointer, text, size, ctypes.POINTER(size), size, count],
        "mb_tokenizer_mapped": [pointer, text, size, text, size, count],
        "mb_tokenizer_encode": [pointer, text, size, flag, tokens, size, count],
        "mb_tokenizer_decode": [pointer, tokens, size, flag, text, size, count],
        "mb_tokenizer_vocabulary": [pointer],
        "mb_tokenizer_longest": [pointer],
        "mb_tokenizer_has_chat": [pointer],
        "mb_tokenizer_has_thinking": [pointer],
        "mb_stream_begin": [stream, pointer, ctypes.c_uint32],
        "mb_stream_token": [stream, ctypes.c_int32, text, size],
        "mb_stream_finish": [stream, text, size],
    }, {
        "mb_tokenizer_close": None,
        "mb_tokenizer_vocabulary": ctypes.c_uint32,
        "mb_tokenizer_longest": size,
        "mb_tokenizer_has_chat": flag,
        "mb_tokenizer_has_thinking": flag,
        "mb_stream_begin": None,
        "mb_stream_token": size,
        "mb_stream_finish": size,
    })  # fmt: skip


class Tokenizer:
    """tokenizer.bin. Raises UserError when it is damaged."""

    def __init__(self, path: Path) -> None:
        self._handle = ctypes.c_void_p()
        check(_library().mb_tokenizer_open(os.fsencode(path), ctypes.byref(self._handle)))

    @property
    def handle(self) -> ctypes.c_void_p:
        """The mb_tokenizer, for the functions of other parts."""
        return self._handle

    @property
    def vocabulary(self) -> int:
        """The highest id + 1."""
        return int(_library().mb_tokenizer_vocabulary(self._handle))

    @property
    def has_chat(self) -> bool:
        """Whether the bundle has a chat template."""
        return bool(_library().mb_tokenizer_has_chat(self._handle))

    @property
    def has_thinking(self) -> bool:
        """Whether its chat template can switch thinking on and off."""
        return bool(_library().mb_tokenizer_has_thinking(self._handle))

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


@contextmanager
def opened(data: bytes) -> Iterator[ctypes.c_void_p]:
    """The mb_tokenizer of a tokenizer.bin that is in memory. Raises UserError when it is damaged."""
    file = np.frombuffer(data, np.uint8).copy()
    handle = ctypes.c_void_p()
    check(_library().mb_tokenizer_open_memory(file.ctypes.data, len(data), True, ctypes.byref(handle)))
    try:
        yield handle
    finally:
        _library().mb_tokenizer_close(handle)


def split_pieces(data: bytes, texts: Sequence[str]) -> list[list[bytes]]:
    """The pieces of each text (valid Unicode) by the split tables of a tokenizer.bin that is in memory.

    Raises UserError when the file is damaged or has no tables."""
    found = []
    with opened(data) as handle:
        for text in texts:
            encoded, count = text.encode(), ctypes.c_size_t()
            places = np.empty(2 * len(encoded), np.uintp)
            pointer = places.ctypes.data_as(ctypes.POINTER(ctypes.c_size_t))
            check(
                _library().mb_tokenizer_pieces(handle, encoded, len(encoded), pointer, len(places), ctypes.byref(count))
            )
            pairs = places[: count.value].reshape(-1, 2).tolist()
            found.append([encoded[begin:end] for begin, end in pairs])
    return found


def normalized_text(data: bytes, texts: Sequence[str]) -> list[str]:
    """What the table of characters of a tokenizer.bin that is in memory makes of each text (valid Unicode).

    Raises UserError when the file is damaged or has no table."""
    found = []
    with opened(data) as handle:
        for text in texts:
            encoded, count = text.encode(), ctypes.c_size_t()
            out = ctypes.create_string_buffer(4 * len(encoded) + 256)
            while True:
                size = len(out)
                check(_library().mb_tokenizer_mapped(handle, encoded, len(encoded), out, size, ctypes.byref(count)))
                if count.value <= size:
                    break
                out = ctypes.create_string_buffer(count.value)
            found.append(out.raw[: count.value].decode())
    return found


class TextStream:
    """The text of an answer, token by token, always in whole characters; special tokens give no text.

    What is not decided yet (an unfinished character) is kept back until a later token, or `finish`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer  # must not be closed before
        self._stream = _Stream()
        self._buffer = ctypes.create_string_buffer(_library().mb_tokenizer_longest(tokenizer.handle) + 16)
        _library().mb_stream_begin(ctypes.byref(self._stream), tokenizer.handle, _SKIP_SPECIAL | _CONTINUES)

    def token(self, token: int) -> str:
        """The text that a token adds."""
        size = _library().mb_stream_token(ctypes.byref(self._stream), token, self._buffer, len(self._buffer))
        return self._buffer.raw[:size].decode("utf-8", "replace")

    def finish(self) -> str:
        """The text that was kept back until now."""
        size = _library().mb_stream_finish(ctypes.byref(self._stream), self._buffer, len(self._buffer))
        return self._buffer.raw[:size].decode("utf-8", "replace")
