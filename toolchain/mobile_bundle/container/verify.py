"""Checks that a bundle is whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mobile_bundle.container import cache
from mobile_bundle.container import manifest as manifests
from mobile_bundle.container.index import ContainerError
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.errors import InputError
from mobile_bundle.models.spec import ModelConfig

_WEIGHTS = "weights.ptd"


def verify_bundle(directory: str | os.PathLike[str]) -> list[str]:
    """Reads every byte of a bundle once and checks it: manifest, size and sha256 of every file, index, checksums and
    gaps of the weights. Checks the weights cache of an installed bundle too, which the manifest does not name.

    Returns the names of the files that were checked. UserError names the first file that is damaged or does not belong
    to a bundle."""
    manifest = manifests.read_manifest(directory)
    _refuse_strays(Path(directory), manifest)
    manifests.verify_files(directory, manifest, but=_WEIGHTS)
    path = Path(directory) / _WEIGHTS
    installed = Path(directory) / cache.NAME
    checked = [manifests.NAME, *manifest["files"]]
    try:
        with WeightsReader(path) as weights:
            try:
                ModelConfig.parse(weights.config)
            except ValueError as error:
                raise ContainerError(str(error)) from None
            digest = weights.verify()
            if installed.is_file():
                cache.verify_cache(installed, weights)
                checked.append(cache.NAME)
            found = {entry.name: (entry.header.rows, entry.header.columns, entry.bytes) for entry in weights.entries}
    except ContainerError as error:
        raise InputError(f"{path}: {error}", "build the bundle again") from error
    manifests.check_sha256(path, manifest["files"][_WEIGHTS], digest)
    listed = {tensor["name"]: (tensor["rows"], tensor["columns"], tensor["bytes"]) for tensor in manifest["tensors"]}
    if found != listed:
        raise InputError(f"{path} does not hold the tensors that the manifest lists", "build the bundle again")
    return checked


def _refuse_strays(directory: Path, manifest: dict[str, Any]) -> None:
    """UserError for a file that the manifest does not name, other than what `mobile-run install` makes."""
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        known = name in manifest["files"] or name in (manifests.NAME, cache.NAME)
        if (path.is_dir() and not path.is_symlink()) or known or name.startswith(cache.PARTIAL):
            continue
        raise InputError(f"{path} is not part of the bundle: its manifest does not name it", "remove the file")
    if _WEIGHTS not in manifest["files"]:
        raise InputError(f"{directory / manifests.NAME} is damaged: it names no {_WEIGHTS}", "build the bundle again")
