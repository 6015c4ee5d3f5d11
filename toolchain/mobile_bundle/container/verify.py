"""Whether a bundle is whole."""

from __future__ import annotations

import os
from pathlib import Path

from mobile_bundle.container import cache
from mobile_bundle.container.index import ContainerError
from mobile_bundle.container.manifest import read_manifest, verify_files
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.errors import UserError


def verify_bundle(directory: str | os.PathLike[str]) -> list[str]:
    """Reads every byte of a bundle: manifest, size and sha256 of every file, index and checksum of every tensor, and
    the cache of an installed bundle, which the manifest does not name.

    The names of the files that were checked. UserError names the first that is damaged."""
    manifest = read_manifest(directory)
    verify_files(directory, manifest)
    path = Path(directory) / "weights.ptd"
    installed = Path(directory) / cache.NAME
    checked = ["manifest.json", *manifest["files"]]
    try:
        with WeightsReader(path) as weights:
            weights.verify()
            if installed.is_file():
                cache.verify_cache(installed, weights)
                checked.append(cache.NAME)
            found = {entry.name: (entry.header.rows, entry.header.columns, entry.bytes) for entry in weights.entries}
    except ContainerError as error:
        raise UserError(f"{path}: {error}; build the bundle again") from error
    listed = {tensor["name"]: (tensor["rows"], tensor["columns"], tensor["bytes"]) for tensor in manifest["tensors"]}
    if found != listed:
        raise UserError(f"{path} does not hold the tensors that the manifest lists; build the bundle again")
    return checked
