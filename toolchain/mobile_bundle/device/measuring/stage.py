"""Copies a bundle and the programs that measure it into the work folder of a device."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mobile_bundle.container.manifest import NAME as MANIFEST
from mobile_bundle.corpus.text import DEFAULT_TEXT, read_text
from mobile_bundle.device.measuring.program import MeasuredProgram
from mobile_bundle.device.transport.adb import Device
from mobile_bundle.device.transport.places import Places
from mobile_bundle.device.transport.push import Progress, push_changed
from mobile_bundle.files.disk import write_file
from mobile_bundle.files.work_folder import scratch_folder
from mobile_bundle.native.library import package_file
from mobile_bundle.native.tokenizer import Tokenizer


def stage(
    device: Device,
    bundle: Path,
    manifest: dict[str, Any],
    places: Places,
    programs: Sequence[MeasuredProgram],
    text: str,
    progress: Progress,
) -> int:
    """Pushes changed files. text: of the prompts, as filling_text has it. Returns the bytes that were sent. Raises
    DeviceError; UserError for a package without mobile-watch."""
    files = bundle_files(bundle, manifest, places)
    files[places.watch] = package_file("bin", places.abi, "mobile-watch")
    for program in programs:
        files.update(program.files(places))
    with scratch_folder() as folder:
        prompt = folder / "prompt.txt"
        write_file(prompt, text.encode("utf-8"))
        files[places.prompt] = prompt
        return push_changed(device, files, progress)


def bundle_files(bundle: Path, manifest: dict[str, Any], places: Places) -> dict[str, Path]:
    """{path on the device: local file} of the bundle, without the runners of other ABIs; the manifest last."""
    names = [name for name in manifest["files"] if not name.startswith("bin/") or f"/{places.abi}/" in name]
    return {f"{places.bundle}/{name}": bundle / name for name in [*names, MANIFEST]}


def stored_bytes(device: Device, manifest: dict[str, Any], places: Places) -> int:
    """Bytes of the bundle's files that lie on the device already, whole or in part."""
    folder = shlex.quote(places.bundle)
    # in kilobytes; a folder that is not there has none
    text = device.shell(f"[ -d {folder} ] && du -s -k {folder} || echo 0").split()
    return int(text[0]) * 1024 if text and text[0].isdigit() else 0


_SPARE_TOKENS = 32
"""Tokens of the context that the prompt leaves for the answer."""


def filling_text(bundle: Path, context: int) -> str:
    """Text whose tokens, by the bundle's own tokenizer, nearly fill a context of that many."""
    text = read_text(DEFAULT_TEXT)
    tokenizer = Tokenizer(bundle / "tokenizer.bin")
    try:
        wanted = max(context - min(_SPARE_TOKENS, context // 4), 1)
        # some four characters make a token; repeated where the text is shorter than the context
        text = (text * (1 + 16 * wanted // len(text)))[: 16 * wanted]
        ids = tokenizer.encode(text, special=True)
        most = wanted
        # tokens of a text that was cut may be a few more than those it was cut from
        while len(tokenizer.encode(part := tokenizer.decode(ids[:most], skip_special=True), special=True)) > wanted:
            most -= 1
        return part
    finally:
        tokenizer.close()
