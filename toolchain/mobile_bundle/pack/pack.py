"""Packs a bundle: checks it, entropy-codes its weights, and writes the ZIP whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobile_bundle.container.flat_tensor import SEGMENT_ALIGNMENT
from mobile_bundle.container.manifest import NAME as MANIFEST
from mobile_bundle.container.manifest import read_manifest, write_manifest
from mobile_bundle.container.verify import verify_bundle
from mobile_bundle.errors import InputError
from mobile_bundle.files.disk import disk_errors
from mobile_bundle.files.output_file import OutputFile
from mobile_bundle.native.programs import ABIS
from mobile_bundle.pack.entropy import write_entropy_coded
from mobile_bundle.pack.manifest import with_coded_weights, without_files
from mobile_bundle.pack.zip_writer import ZipWriter

SUFFIX = ".mbundle.zip"
_BOUND = {
    "model.pte": "refers to places in weights.ptd",
    "model.onnx": "refers to places in weights.ptd",
    "system.state": "belongs to the checksums of weights.ptd",
}
"""Files beside which weights.ptd must stay as it is, and why."""
_KEPT_GAIN = 0.01
"""The share of weights.ptd that entropy coding must save: below, a phone would decode and store twice for nothing."""

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Packed:
    """What was written. manifest: of the bundle that comes out. bytes: of the ZIP. entries: (name, bytes, bytes in the
    ZIP, whether stored), in order. note: why the weights were not entropy-coded; empty if they were, or not asked."""

    manifest: dict[str, Any]
    bytes: int
    entries: list[tuple[str, int, int, bool]]
    note: str


def pack_bundle(
    bundle: Path, target: Path, *, abis: Collection[str] = (), entropy: bool = True, progress: Progress
) -> Packed:
    """Writes the ZIP `target` of a bundle. abis: those whose mobile-run goes with it. entropy: code the weights if that
    saves 1 %. UserError for a bundle that is not whole, or has no runner of an ABI, and as OutputFile's."""
    verify_bundle(bundle)
    manifest = read_manifest(bundle)
    for abi in abis:
        if _runner(abi) not in manifest["files"]:
            raise InputError(f"{bundle} has no runner for {abi}", "build it with `formats` native")
    manifest = without_files(manifest, {_runner(abi) for abi in ABIS if abi not in abis})
    with disk_errors(target, manifest["bytes"]):
        target.parent.mkdir(parents=True, exist_ok=True)
        output = OutputFile(target)
        with output.work_folder() as folder:
            work = folder.path
            sources = {file: bundle / file for file in manifest["files"]}
            note = ""
            if entropy:
                manifest, note = _code_weights(bundle, work, manifest, sources, progress)
            write_manifest(work, manifest)
            packed = work / output.path.name
            entries = _write(packed, work / MANIFEST, sources)
            size = packed.stat().st_size
            output.commit(folder)
    return Packed(manifest, size, entries, note)


def _runner(abi: str) -> str:
    return f"bin/{abi}/mobile-run"


def _code_weights(
    bundle: Path, work: Path, manifest: dict[str, Any], sources: dict[str, Path], progress: Progress
) -> tuple[dict[str, Any], str]:
    """Puts entropy-coded weights into `sources` where they are to be preferred; the manifest, and why they are not."""
    bound = next((name for name in _BOUND if name in sources), None)
    if bound:
        return manifest, f"{bound} {_BOUND[bound]}"
    before, after = sources["weights.ptd"], work / "weights.ptd"
    coded = write_entropy_coded(before, after, progress)
    if after.stat().st_size > (1 - _KEPT_GAIN) * before.stat().st_size:
        return manifest, "entropy coding saves less than 1 %"
    sources["weights.ptd"] = after
    return with_coded_weights(manifest, before, after, coded), ""


def _write(path: Path, manifest: Path, sources: dict[str, Path]) -> list[tuple[str, int, int, bool]]:
    """The manifest first, so that a reader can refuse at once, then the files by name: weights.ptd is the last."""
    entries = []
    with ZipWriter(path) as out:
        for name in [MANIFEST, *sorted(sources)]:
            info = out.add(
                name,
                manifest if name == MANIFEST else sources[name],
                alignment=SEGMENT_ALIGNMENT if name == "weights.ptd" else 0,
                executable=name.startswith("bin/"),
            )
            entries.append((name, info.file_size, info.compress_size, info.compress_type == 0))
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return entries
