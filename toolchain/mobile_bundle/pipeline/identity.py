"""What decides the bytes of a part: the tool that codes, and the content of the checkpoint.

Contents are compared, not dates: `cp -p`, `rsync -t` and `tar` give a changed file the date of the old one. All bytes
of a tensor count, not samples of them, so that a single changed weight is seen. That takes little time compared with
coding; docs/ARCHITECTURE.md has the figures."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os

import numpy as np

import mobile_bundle
from mobile_bundle.models import Model, TensorSpec
from mobile_bundle.native.library import library_path
from mobile_bundle.version import __version__


@functools.cache
def tool_identity() -> str:
    """The version, and a digest of the package's sources, the C library and NumPy's version. Parts of another edition
    of the tool are not trusted, and workers of another edition are refused.

    All modules count, because a list of those that influence coding would soon be wrong. UserError if the package has
    no C library."""
    digest = hashlib.sha256(importlib.metadata.version("numpy").encode())
    for top in mobile_bundle.__path__:
        for folder, folders, files in os.walk(top, followlinks=True):
            folders.sort()
            for name in sorted(files):
                if name.endswith(".py"):
                    path = os.path.join(folder, name)
                    digest.update(f"\0{os.path.relpath(path, top)}\0".encode())
                    with open(path, "rb") as file:
                        digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(hashlib.sha256(library_path().read_bytes()).digest())
    return f"{__version__}-{digest.hexdigest()[:16]}"


def config_digest(model: Model) -> str:
    """Digest of config.json as it was read: it says how the weights are meant."""
    return hashlib.sha256(json.dumps(model.checkpoint.config, sort_keys=True).encode()).hexdigest()


def tensor_digest(model: Model, tensor: TensorSpec) -> str:
    """Digest of everything in the weight files that the tensor's values come from, or of a computed tensor's values.

    UserError if they cannot be read."""
    digest = hashlib.sha256(f"{tensor.rows}\0{tensor.columns}\0{tensor.role}".encode())
    if not tensor.source:
        for chunk in model.source(tensor).chunks(tensor.rows):
            digest.update(np.ascontiguousarray(chunk).data.cast("B"))
    for name in model.stored_names(tensor):
        digest.update(f"\0{name}\0{model.checkpoint.digest(name)}".encode())
    return digest.hexdigest()
