"""The C tokenizer for the tests: compiled from its sources into a shared library and called through ctypes."""

from __future__ import annotations

import ctypes
import datetime
import functools
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from support.paths import ROOT

RUNTIME = ROOT / "runtime"
BASE = ("unicode*", "crc32", "error", "one_line", "option_struct")
SOURCES = sorted(
    file for name in ("tokenizer/*", "chat/*", *(f"base/{n}" for n in BASE)) for file in RUNTIME.glob(f"{name}.c")
)
FLAGS = [
    "-std=c11",
    "-Wall",
    "-Wextra",
    "-Werror",
    '-DMB_VERSION="0"',
    "-I",
    str(RUNTIME),
    "-I",
    str(RUNTIME / "include"),
]

ROLES = ("system", "user", "assistant")
SKIP_SPECIAL, CONTINUES = 1, 2


class Stream(ctypes.Structure):
    """mb_stream."""

    _fields_ = (
        ("tokenizer", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("strip", ctypes.c_uint32),
        ("pending_bytes", ctypes.c_uint32),
        ("whole_bytes", ctypes.c_uint32),
        ("broken", ctypes.c_bool),
        ("pending", ctypes.c_uint8 * 256),
    )


@functools.cache
def library() -> ctypes.CDLL:
    """The library, compiled once per process."""
    folder = tempfile.mkdtemp(prefix="mobile-bundle-tokenizer-")
    path = Path(folder) / "tokenizer.so"
    command = ["cc", *FLAGS, "-O2", "-fPIC", "-shared", *map(str, SOURCES), "-o", str(path)]
    subprocess.run(command, check=True)
    functions = ctypes.CDLL(str(path))
    functions.mb_error_message.restype = ctypes.c_char_p
    functions.mb_tokenizer_vocabulary.restype = ctypes.c_uint32
    functions.mb_tokenizer_longest.restype = ctypes.c_size_t
    functions.mb_stream_token.restype = functions.mb_stream_finish.restype = ctypes.c_size_t
    functions.mb_tokenizer_has_chat.restype = functions.mb_tokenizer_has_thinking.restype = ctypes.c_bool
    functions.mb_tokenizer_close.restype = functions.mb_stream_begin.restype = functions.mb_chat_free.restype = None
    return functions


class Buffer(ctypes.Structure):
    """mb_buffer."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("capacity", ctypes.c_size_t))


def nfc(text: str) -> str:
    """mb_nfc, which is no public function but worth its own test."""
    functions, data, out = library(), text.encode(), Buffer()
    functions.mb_nfc.restype = functions.mb_nfc_inert.restype = ctypes.c_bool
    assert functions.mb_nfc(data, ctypes.c_size_t(len(data)), ctypes.byref(out))
    result = ctypes.string_at(out.data, out.size).decode() if out.size else ""
    ctypes.CDLL(None).free(ctypes.c_void_p(out.data))
    if functions.mb_nfc_inert(data, ctypes.c_size_t(len(data))):
        assert result == text
    return result


class TokenizerError(Exception):
    """(status, message) of a call that failed."""


class Message(ctypes.Structure):
    """mb_chat_message."""

    _fields_ = (("role", ctypes.c_int), ("content", ctypes.c_char_p), ("bytes", ctypes.c_size_t))


class ChatOptions(ctypes.Structure):
    """mb_chat_options."""

    _fields_ = (("size", ctypes.c_uint32), ("thinking", ctypes.c_int), ("now", ctypes.c_void_p))


class Tokenizer:
    """mb_tokenizer, from a file or from bytes."""

    def __init__(self, source: Path | bytes, check_crc: bool = True) -> None:
        self._library = library()
        self._handle = ctypes.c_void_p()
        self._ids = (ctypes.c_int32 * 1000)()  # grow when they do not suffice, as a C caller would do
        self._text = ctypes.create_string_buffer(1000)
        if isinstance(source, Path):
            self._check(self._library.mb_tokenizer_open(str(source).encode(), ctypes.byref(self._handle)))
            return
        self._data = (ctypes.c_uint64 * (len(source) // 8 + 1))()  # aligned
        ctypes.memmove(self._data, source, len(source))
        size = ctypes.c_size_t(len(source))
        self._check(
            self._library.mb_tokenizer_open_memory(
                self._data, size, ctypes.c_bool(check_crc), ctypes.byref(self._handle)
            )
        )

    def _check(self, status: int) -> None:
        if status:
            raise TokenizerError(status, self._library.mb_error_message().decode())

    def __del__(self) -> None:
        self._library.mb_tokenizer_close(self._handle)

    @property
    def vocabulary(self) -> int:
        return int(self._library.mb_tokenizer_vocabulary(self._handle))

    def encode(self, text: str | bytes, special: bool = False) -> list[int]:
        data = text.encode("utf-8", errors="surrogatepass") if isinstance(text, str) else text
        while True:
            ids, capacity = self._ids, len(self._ids)
            count = ctypes.c_size_t()
            self._check(
                self._library.mb_tokenizer_encode(
                    self._handle,
                    data,
                    ctypes.c_size_t(len(data)),
                    ctypes.c_bool(special),
                    ids,
                    ctypes.c_size_t(capacity),
                    ctypes.byref(count),
                )
            )
            if count.value <= capacity:
                return ids[: count.value]
            self._ids = (ctypes.c_int32 * count.value)()

    def decode(self, ids: list[int], skip_special: bool = False) -> str:
        numbers = (ctypes.c_int32 * len(ids))(*ids)
        while True:
            text, capacity = self._text, len(self._text)
            size = ctypes.c_size_t()
            self._check(
                self._library.mb_tokenizer_decode(
                    self._handle,
                    numbers,
                    ctypes.c_size_t(len(ids)),
                    ctypes.c_bool(skip_special),
                    text,
                    ctypes.c_size_t(capacity),
                    ctypes.byref(size),
                )
            )
            if size.value <= capacity:
                return ctypes.string_at(text, size.value).decode()  # strict: it must be valid UTF-8
            self._text = ctypes.create_string_buffer(size.value)

    def stream(self, ids: list[int], flags: int = 0) -> list[str]:
        """What every token gives, and last what the end gives."""
        capacity = int(self._library.mb_tokenizer_longest(self._handle))
        text = ctypes.create_string_buffer(capacity)
        stream = Stream()
        self._library.mb_stream_begin(ctypes.byref(stream), self._handle, ctypes.c_uint32(flags))
        parts = []
        for number in ids:
            size = self._library.mb_stream_token(
                ctypes.byref(stream), ctypes.c_int32(number), text, ctypes.c_size_t(capacity)
            )
            parts.append(ctypes.string_at(text, size).decode())
        size = self._library.mb_stream_finish(ctypes.byref(stream), text, ctypes.c_size_t(capacity))
        parts.append(ctypes.string_at(text, size).decode())
        return parts

    @property
    def has_chat(self) -> bool:
        return bool(self._library.mb_tokenizer_has_chat(self._handle))

    @property
    def has_thinking(self) -> bool:
        return bool(self._library.mb_tokenizer_has_thinking(self._handle))

    def chat(
        self,
        messages: Sequence[tuple[str, str | bytes]],
        thinking: bool | None = None,
        now: datetime.datetime = datetime.datetime(2026, 11, 3, 14, 5, 9),
    ) -> str:
        """mb_chat_render of (role, content)."""
        given = (Message * len(messages))()
        for place, (role, content) in enumerate(messages):
            data = content.encode() if isinstance(content, str) else content
            given[place] = Message(ROLES.index(role), data, len(data))
        tm = now.timetuple()
        fields = (tm.tm_sec, tm.tm_min, tm.tm_hour, tm.tm_mday, tm.tm_mon - 1, tm.tm_year - 1900)
        time = (ctypes.c_long * 16)()  # as large as any struct tm
        ctypes.memmove(time, (ctypes.c_int * 8)(*fields, (tm.tm_wday + 1) % 7, tm.tm_yday - 1), 32)
        switch = 0 if thinking is None else 1 + thinking
        options = ChatOptions(ctypes.sizeof(ChatOptions), switch, ctypes.cast(time, ctypes.c_void_p))
        text, size = ctypes.c_void_p(), ctypes.c_size_t()
        self._check(
            self._library.mb_chat_render(
                self._handle,
                given,
                ctypes.c_size_t(len(messages)),
                ctypes.byref(options),
                ctypes.byref(text),
                ctypes.byref(size),
            )
        )
        result = ctypes.string_at(text, size.value).decode() if size.value else ""
        self._library.mb_chat_free(text)
        return result
