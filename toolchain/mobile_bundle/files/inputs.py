"""Reading what others wrote: whole small files, and JSON, with bounds.

Only regular files are read: a device or a pipe has no end, or waits for one. A file that is missing is a
FileNotFoundError, which callers have their own words for; everything else that is wrong with it is a UserError.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, NoReturn

from mobile_bundle.errors import InputError, UserError
from mobile_bundle.files.git_lfs import refuse_pointer

MOST_BYTES = 128 << 20
"""Of a file that is read whole. The largest tokenizer.json that we know has 33 MB."""

_MOST_DEPTH = 64
_MOST_DIGITS = 300
"""Of a whole number, so that it is finite as a float, too."""


def open_regular(path: str | os.PathLike[str]) -> int:
    """A descriptor of a regular file, for reading. FileNotFoundError; UserError for anything else."""
    try:
        # without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise InputError(
            f"{Path(path)}: {'a directory' if stat.S_ISDIR(mode) else 'not a regular file'}", "give a file"
        )
    return descriptor


def read_bytes(path: str | os.PathLike[str], most: int = MOST_BYTES) -> bytes:
    """The whole file. FileNotFoundError; UserError where it cannot be read, is no regular file or has more than `most`
    bytes."""
    with open(open_regular(path), "rb") as file:
        try:
            size = os.fstat(file.fileno()).st_size
            data = file.read(size + 1) if size <= most else b""
        except OSError as error:
            raise _unreadable(path, error) from error
    if size > most:
        raise InputError(f"{Path(path)} has more than {most:,} bytes, the limit for such a file")
    return data


def read_text(path: str | os.PathLike[str], most: int = MOST_BYTES) -> str:
    """The whole file, UTF-8; line ends become "\\n". Errors as read_bytes, and UserError where it is not UTF-8."""
    return decode_text(read_bytes(path, most), path)


def decode_text(data: bytes, path: str | os.PathLike[str]) -> str:
    """The bytes of a text file as read_text gives them. UserError where they are not UTF-8."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{Path(path)}: not UTF-8 (byte {error.start}): convert it first") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value in a JSON file, checked as parse_json does. FileNotFoundError; UserError."""
    data = read_bytes(path)
    refuse_pointer(Path(path), data)
    return parse_json(data, str(path))


def read_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """As read_json, for a file that must hold an object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{Path(path)} is not a JSON object")
    return value


def parse_json(data: bytes | str, where: str) -> Any:
    """The value of a JSON text, UTF-8. where: the file's name, for messages.

    Refused with a UserError: what is not JSON; NaN, infinities and numbers too large for a float, which JSON does not
    have; more than 64 levels; halves of surrogate pairs in strings, which are no text. Of several equal keys the last
    one counts, as in Python's own reader."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = json.loads(text, parse_constant=_no_number, parse_float=_float, parse_int=_int)
    except UnicodeDecodeError as error:
        raise InputError(f"{where} cannot be read: not UTF-8 (byte {error.start})") from error
    except RecursionError:
        raise _too_deep(where) from None
    except ValueError as error:
        raise InputError(f"{where} cannot be read: not JSON: {error}") from error
    _check_depth(value, where)
    if re.search(r"\\u[dD][89a-fA-F]", text):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise InputError(
                f"{where} cannot be read: it holds half of a surrogate pair, which is not valid text"
            ) from None
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _int(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits is too large")
    return int(text)


def _check_depth(value: Any, where: str) -> None:
    level = [value]
    for _ in range(_MOST_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise _too_deep(where)


def _too_deep(where: str) -> UserError:
    return InputError(f"{where} cannot be read: it has more than {_MOST_DEPTH} levels of nesting")


def _unreadable(path: str | os.PathLike[str], error: Exception) -> UserError:
    return InputError(f"{Path(path)}: cannot be read: {getattr(error, 'strerror', None) or error}")
