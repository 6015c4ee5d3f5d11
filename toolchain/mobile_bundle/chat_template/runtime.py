"""The runtime's own rendering of a program: what a phone will say."""

from __future__ import annotations

import ctypes
import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from mobile_bundle.errors import UserError
from mobile_bundle.native import check, declared, library

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
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    functions = declared(
        {
            "mb_chat_render_program": [
                pointer,
                size,
                ctypes.c_char_p,
                size,
                ctypes.POINTER(_Message),
                size,
                ctypes.POINTER(_Options),
                ctypes.POINTER(pointer),
                ctypes.POINTER(size),
            ]
        }
    )
    encoded = [(ROLES.index(role), content.encode()) for role, content in messages]
    given = (_Message * len(encoded))(*(_Message(role, content, len(content)) for role, content in encoded))
    tm = now.timetuple()
    weekday, month = (tm.tm_wday + 1) % 7, tm.tm_mon - 1
    day, year = tm.tm_yday - 1, tm.tm_year - 1900
    time = _Time((tm.tm_sec, tm.tm_min, tm.tm_hour, tm.tm_mday, month, year, weekday, day, 0))
    switch = 0 if thinking is None else 1 + thinking
    options = _Options(ctypes.sizeof(_Options), switch, ctypes.pointer(time))
    aligned = (ctypes.c_uint64 * (len(section) // 8 + 1))()
    ctypes.memmove(aligned, section, len(section))
    text, length = ctypes.c_void_p(), ctypes.c_size_t()
    status = functions.mb_chat_render_program(
        aligned, len(section), texts, len(texts), given, len(given), options, ctypes.byref(text), ctypes.byref(length)
    )
    try:
        check(status)
        return Rendering(ctypes.string_at(text, length.value).decode() if length.value else "", "")
    except UserError as error:
        return Rendering(None, str(error).partition(": ")[2] or str(error))
    finally:
        free = library().mb_chat_free
        free.argtypes, free.restype = [ctypes.c_void_p], None
        free(text)
