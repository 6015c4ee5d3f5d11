"""Finding and loading the C library, and the errors of its functions. It is the very engine that runs on a phone."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobile_bundle.errors import (
    ArgumentError,
    Cancelled,
    InputError,
    InstallationError,
    NotFinite,
    OutOfMemory,
    UserError,
)


def find_package_file(*parts: str) -> Path | None:
    """A file that the build put into the installed package, e.g. ("lib", "libmobile_bundle.so"). None: not
    there."""
    import mobile_bundle

    # An editable install has two folders: the sources, and what was built.
    paths = (Path(directory, *parts) for directory in mobile_bundle.__path__)
    return next((path for path in paths if path.exists()), None)


def package_file(*parts: str) -> Path:
    """As find_package_file. Raises UserError when the package was built without the file."""
    path = find_package_file(*parts)
    if path is None:
        raise InstallationError(f"{'/'.join(parts)} is not in the installed package", "install it with `pip install .`")
    return path


def library_path() -> Path:
    """The shared library. MOBILE_BUNDLE_LIBRARY names another one (a sanitizer build, for instance)."""
    override = os.environ.get("MOBILE_BUNDLE_LIBRARY")
    return Path(override) if override else package_file("lib", "libmobile_bundle.so")


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library, without the types of its functions (`declared`).

    Raises UserError when it is missing or cannot be loaded."""
    path = library_path()
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as error:
        raise InstallationError(f"{path} cannot be loaded ({error})", "install the package again") from error
    lib.mb_version.restype = lib.mb_error_message.restype = ctypes.c_char_p
    lib.mb_version.argtypes = lib.mb_error_message.argtypes = []
    return lib


def declared(signatures: Mapping[str, list[Any]], results: Mapping[str, Any] | None = None) -> ctypes.CDLL:
    """library() with the argument types of more of its functions. They return a status for `check`, but for those of
    `results`, which gives the type (None: nothing)."""
    lib = library()
    for name, arguments in signatures.items():
        function = getattr(lib, name)
        function.restype = results[name] if results and name in results else ctypes.c_int
        function.argtypes = arguments
    return lib


_ERRORS: dict[int, type[UserError]] = {
    1: ArgumentError,
    2: InputError,
    3: InputError,
    4: OutOfMemory,
    5: Cancelled,
    6: NotFinite,
}
"""mb_status."""


def check(status: int) -> None:
    """Raises the error of that kind, with the library's message, unless the status of one of its functions is 0."""
    if status:
        raise _ERRORS[status]((library().mb_error_message() or b"").decode("utf-8", "replace"))
