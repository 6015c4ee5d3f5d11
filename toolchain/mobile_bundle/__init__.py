"""mobile-bundle: a Hugging Face causal-LM checkpoint becomes a bundle that runs on a small Android phone.

    import mobile_bundle as mb

    bundle = mb.build("path/to/model", "model.mbundle", max_size="480MB", progress=print)
    with bundle.load(context=2048) as model:
        for piece in model.stream("Once upon a time", max_new_tokens=64):
            print(piece.text, end="")

docs/PYTHON.md is the page about it. Each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mobile_bundle import errors
from mobile_bundle.version import __version__

if TYPE_CHECKING:
    from mobile_bundle.api.answer import Piece
    from mobile_bundle.api.build import build
    from mobile_bundle.api.bundle import Bundle
    from mobile_bundle.api.bundle import open_bundle as open
    from mobile_bundle.api.estimate import estimate
    from mobile_bundle.api.heal import heal
    from mobile_bundle.api.manifest import Manifest
    from mobile_bundle.api.model import LoadedModel
    from mobile_bundle.lower.quantize import quantize_
    from mobile_bundle.native.sampler import Sampling
    from mobile_bundle.pipeline.request import Step
    from mobile_bundle.planning.recipe import Recipe

_HOMES = {
    "Bundle": "api.bundle:Bundle",
    "LoadedModel": "api.model:LoadedModel",
    "Manifest": "api.manifest:Manifest",
    "Piece": "api.answer:Piece",
    "Recipe": "planning.recipe:Recipe",
    "Sampling": "native.sampler:Sampling",
    "Step": "pipeline.request:Step",
    "build": "api.build:build",
    "estimate": "api.estimate:estimate",
    "heal": "api.heal:heal",
    "open": "api.bundle:open_bundle",
    "quantize_": "lower.quantize:quantize_",
}
"""The module below this one, and the name in it."""

__all__ = [
    "Bundle",
    "LoadedModel",
    "Manifest",
    "Piece",
    "Recipe",
    "Sampling",
    "Step",
    "__version__",
    "build",
    "errors",
    "estimate",
    "heal",
    "open",
    "quantize_",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
