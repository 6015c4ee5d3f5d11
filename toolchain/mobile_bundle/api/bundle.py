"""A bundle on disk."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from mobile_bundle.api.manifest import Manifest, Tensor
from mobile_bundle.api.model import LoadedModel
from mobile_bundle.container.manifest import read_manifest
from mobile_bundle.container.verify import verify_bundle


class Bundle:
    """A NAME.mbundle directory. It is only read, and may be used by several threads."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Reads only the manifest; `verify` reads everything. InputError if there is no bundle, or if this version
        cannot read it."""
        self.path = Path(path)
        self.manifest = Manifest.parse(read_manifest(self.path))

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r})"

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """The manifest's tensors, in the order of the file."""
        return self.manifest.tensors

    def verify(self) -> list[str]:
        """Reads every byte and compares sizes and checksums. Returns the names of the files that were checked.
        InputError names the first file that is damaged or does not belong to a bundle."""
        return verify_bundle(self.path)

    def load(
        self,
        *,
        context: int = 0,
        threads: int = 0,
        kv: str = "int8",
        mapping: str = "whole",
        cache: str | os.PathLike[str] | None = None,
    ) -> LoadedModel:
        """Opens the model in this process, by the engine that a phone has; close it, or use it in a `with` statement.

        context: tokens that it can hold (0: the bundle's default), which decides its memory. threads: 0 for one per
        processor, at most 4. kv: type of the KV cache, "int8", "k8v4", "int4" or "f16". mapping: "whole", or "layers"
        for a model that is larger than memory. cache: the folder for what a bundle of stored codes is decoded to, when
        it is first loaded (None: the bundle itself).

        ArgumentError for a context that the model does not have, InputError for a damaged bundle, OutOfMemory where
        the context needs more memory than there is."""
        return LoadedModel(
            self.path,
            context=context,
            threads=threads,
            kv=kv,
            mapping=mapping,
            cache=None if cache is None else Path(cache),
        )


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Opens an existing bundle: `mb.open`. InputError if there is none, or if this version cannot read it."""
    return Bundle(path)
