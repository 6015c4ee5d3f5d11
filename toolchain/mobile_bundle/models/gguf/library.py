"""The `gguf` package, which reading a GGUF file needs: llama.cpp's own numbers of types, and its dequantisation."""

from __future__ import annotations

import importlib
import importlib.metadata
from types import ModuleType

from mobile_bundle.errors import InstallationError


def library(module: str) -> ModuleType:
    """gguf.<module>. UserError if the package is not installed."""
    try:
        return importlib.import_module(f"gguf.{module}")
    except ImportError as error:
        raise InstallationError(
            "reading a GGUF file needs the gguf package", "pip install '.[gguf]' in a checkout of mobile-bundle"
        ) from error


def version() -> str:
    """The installed version of the package."""
    return importlib.metadata.version("gguf")
