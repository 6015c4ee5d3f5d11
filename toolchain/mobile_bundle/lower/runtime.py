"""The operators in Python's ExecuTorch runtime."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from mobile_bundle.errors import InstallationError
from mobile_bundle.lower.ops import operator_names
from mobile_bundle.native.library import package_file


def operator_library() -> Path:
    """libmobile_bundle_executorch.so: MOBILE_BUNDLE_EXECUTORCH_LIBRARY, or the installed package's.

    UserError when the package was built without it."""
    override = os.environ.get("MOBILE_BUNDLE_EXECUTORCH_LIBRARY")
    return Path(override) if override else package_file("lib", "libmobile_bundle_executorch.so")


def load_operators() -> None:
    """Makes the operators known to the ExecuTorch runtime of this process; a second call does nothing.

    UserError when the library is missing or belongs to another version of executorch."""
    try:
        from executorch.extension.pybindings import portable_lib
    except ImportError as error:
        raise InstallationError(
            "needs executorch", "pip install '.[executorch]' in a checkout of mobile-bundle"
        ) from error
    # Registering a name twice ends the process, so the registry is asked and not a flag.
    if set(operator_names()) <= set(portable_lib._get_operator_names()):
        return
    path = operator_library()
    try:
        ctypes.CDLL(str(path))  # registers itself with the libexecutorch.so that portable_lib has loaded
    except OSError as error:
        raise InstallationError(
            f"{path} cannot be loaded ({error})", "build it for the installed executorch"
        ) from error
