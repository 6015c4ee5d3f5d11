"""Renders conversations with the runtime's own chat template program: what a phone will say."""

from __future__ import annotations

import ctypes
import datetime
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from mobile_bundle.errors import UserError
from mobile_bundle.native.library import check, declared
from mobile_bundle.native.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
"""mb_chat_role."""


class _Message(ctypes.Structure):
    _fields_ = [("role", ctypes.c_int), ("content", ctypes.c_char_p), ("bytes", ctypes.c_size_t)]


class _Time(ctypes.Structure):  # struct tm; what is behind these nine is for time zones and not read
    _fields_ = [("fields", ctypes.c_int * 9), ("rest", ctypes.c_long * 4)]


class _Options(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("thinking", ctypes.c_int), ("now", ctypes.POINTER(_Time))]


@dataclass(frozen=True)
class Rendering:
    """What the runtime says to a conversation: a text, or why not (without what every such message begins with)."""

    text: str | None
    error: str


def render(
    section: bytes,
    texts: bytes,
    messages: Sequence[tuple[str, str]],
    thinking: bool | None,
    now: datetime.datetime,
) -> Rendering:
    """A conversation of (role, content) by a program's two sections. thinking: None leaves it to the template."""
    aligned = (ctypes.c_uint64 * (len(section) // 8 + 1))()
    ctypes.memmove(aligned, section, len(section))
    try:
        program = (aligned, len(section), texts, len(texts))
        return Rendering(_rendered(_library().mb_chat_render_program, program, messages, thinking, now), "")
    except UserError as error:
        return Rendering(None, str(error).partition(": ")[2] or str(error))


def render_chat(
    tokenizer: Tokenizer, messages: Sequence[tuple[str, str]], thinking: bool | None, now: datetime.datetime
) -> str:
    """A conversation of (role, content) as the tokenizer's chat template writes it, with the request to answer. One
    that ends with the assistant's message has that message continued. ArgumentError where the template refuses it."""
    return _rendered(_library().mb_chat_render, (tokenizer.handle,), messages, thinking, now)


@functools.cache
def _library() -> ctypes.CDLL:
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    conversation = [ctypes.POINTER(_Message), size, ctypes.POINTER(_Options)]
    text = [ctypes.POINTER(pointer), ctypes.POINTER(size)]
    return declared({
        "mb_chat_render_program": [pointer, size, ctypes.c_char_p, size, *conversation, *text],
        "mb_chat_render": [pointer, *conversation, *text],
        "mb_chat_free": [pointer],
    }, {"mb_chat_free": None})  # fmt: skip


def _rendered(
    function: ctypes._NamedFuncPointer,
    template: Sequence[object],
    messages: Sequence[tuple[str, str]],
    thinking: bool | None,
    now: datetime.datetime,
) -> str:
    encoded = [(ROLES.index(role), content.encode("utf-8", "surrogatepass")) for role, content in messages]
    given = (_Message * len(encoded))(*(_Message(role, content, len(content)) for role, content in encoded))
    tm = now.timetuple()
    weekday, month = (tm.tm_wday + 1) % 7, tm.tm_mon - 1
    day, year = tm.tm_yday - 1, tm.tm_year - 1900
    time = _Time((tm.tm_sec, tm.tm_min, tm.tm_hour, tm.tm_mday, month, year, weekday, day, 0))
    switch = 0 if thinking is None else 1 + thinking
    options = _Options(ctypes.sizeof(_Options), switch, ctypes.pointer(time))
    text, length = ctypes.c_void_p(), ctypes.c_size_t()
    try:
        check(function(*template, given, len(given), options, ctypes.byref(text), ctypes.byref(length)))
        return ctypes.string_at(text, length.value).decode("utf-8", "replace") if length.value else ""
    finally:
        _library().mb_chat_free(text)
