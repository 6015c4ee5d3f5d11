"""manifest.json: what a bundle is, and the sha256 of every file. manifest.schema.json beside this file defines it."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from importlib import resources
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from jsonschema.exceptions import best_match  # type: ignore[import-untyped]

from mobile_bundle.errors import InputError, UserError, printable
from mobile_bundle.files.disk import write_file
from mobile_bundle.files.inputs import open_regular, parse_json, read_bytes, read_json

NAME = "manifest.json"
FORMAT = "mobile-bundle"
FORMAT_VERSION = 1
_ADDED = ("weights.cache",)
_UNFINISHED = ".weights.cache.partial-"
"""What installing a bundle adds to it, and what a killed `install` leaves."""


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of manifest.json."""
    text = resources.files("mobile_bundle.container").joinpath("manifest.schema.json").read_text("utf-8")
    value: dict[str, Any] = json.loads(text)
    return value


def write_manifest(directory: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Writes manifest.json, synced; the last file of a bundle. Returns it as written, every string on one line."""
    written: dict[str, Any] = _printable(manifest)
    text = json.dumps(written, indent=1, ensure_ascii=False, allow_nan=False)
    partial = directory / f".{NAME}.partial"
    write_file(partial, text.encode("utf-8") + b"\n")
    os.replace(partial, directory / NAME)
    return written


def check_bundle_path(path: Path) -> None:
    """UserError for what cannot be a bundle: nothing, or a file."""
    if path.is_dir():
        return
    if not path.exists():
        raise InputError(f"{path} does not exist", "give a bundle, NAME.mbundle")
    if path.suffix == ".zip":
        raise InputError(
            f"{path} is the packed form of a bundle",
            f"unpack it: unzip {shlex.quote(str(path))} -d {shlex.quote(str(path.with_suffix('')))}",
        )
    raise InputError(f"{path} is not a bundle: it is not a directory")


def read_manifest(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a bundle. UserError if the directory is not a bundle, or if this version cannot read it."""
    path = Path(directory) / NAME
    check_bundle_path(path.parent)
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise InputError(f"{directory} is not a bundle: it has no {NAME}") from None
    try:
        manifest = _printable(parse_json(data, "it"))
    except UserError as error:
        raise InputError(
            f"{path} is damaged, or not the manifest of a bundle ({error})", "build the bundle again"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{path} is damaged, or not the manifest of a bundle", "build the bundle again")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {manifest.get('format_version')!r}, this program reads {FORMAT_VERSION}; "
            f"build the bundle again or update the program"
        )
    problem = best_match(Draft202012Validator(schema()).iter_errors(manifest))
    if problem is not None:
        where = "/".join(str(part) for part in problem.absolute_path) or "it"
        reason = problem.message if len(problem.message) < 100 else "not as the format asks for"
        raise InputError(f"{path} is damaged ({where}: {reason})", "build the bundle again")
    return manifest


def _printable(value: Any) -> Any:
    """The value with every string in it on one line: names come from foreign files, and are printed."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): _printable(item) for key, item in value.items()}
    return value


def is_bundle(directory: Path) -> bool:
    """Whether the directory holds a manifest of ours, of any version."""
    return _any_manifest(directory) is not None


def obstacle(directory: Path) -> str | None:
    """Why a new bundle must not replace a directory: it is not a bundle, or it holds other files. None if it may."""
    manifest = _any_manifest(directory)
    if manifest is None:
        return "exists and is not a bundle"
    files = manifest.get("files")
    own = {*(files if isinstance(files, dict) else ()), NAME, *_ADDED}
    for folder, folders, names in os.walk(directory):
        inside = Path(folder).relative_to(directory)
        for name in [*names, *(name for name in folders if os.path.islink(os.path.join(folder, name)))]:
            if (inside / name).as_posix() not in own and not name.startswith(_UNFINISHED):
                return f"holds {inside / name}, which is not part of the bundle"
    return None


def fingerprint(directory: Path) -> str:
    """Tells a bundle from another: the sha256 of its manifest."""
    return sha256(directory / NAME)


def _any_manifest(directory: Path) -> dict[str, Any] | None:
    try:
        manifest = read_json(directory / NAME)
    except (OSError, UserError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else None


def describe_files(directory: Path) -> dict[str, dict[str, Any]]:
    """{path with forward slashes: {bytes, sha256}} of every file of the tree but the manifest, sorted."""
    out = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = path.relative_to(directory).as_posix()
        if name != NAME:
            out[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    return out


def check_files(directory: str | os.PathLike[str], manifest: dict[str, Any]) -> None:
    """Checks that every file of the manifest exists and has its size. UserError at the first that differs."""
    root = Path(directory)
    for name, facts in manifest["files"].items():
        path = root / name
        if not isinstance(facts, dict) or Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"{root / NAME} is damaged: its entry for {name!r} is invalid")
        if path.is_symlink() or not path.is_file():
            raise InputError(f"{root} is incomplete: {name} is missing", "build the bundle again")
        size = path.stat().st_size
        if size != facts.get("bytes"):
            raise InputError(
                f"{path} has {size} bytes, the manifest says {facts.get('bytes')}", "build the bundle again"
            )


def check_sha256(path: Path, facts: dict[str, Any], found: str) -> None:
    """UserError unless `found` is what the manifest says of the file."""
    if found != facts.get("sha256"):
        raise InputError(f"{path} is damaged: its sha256 differs from the manifest", "build the bundle again")


def verify_files(directory: str | os.PathLike[str], manifest: dict[str, Any], but: str = "") -> None:
    """Checks size and sha256 of every file of the manifest except `but`. UserError at the first that differs."""
    check_files(directory, manifest)
    for name, facts in manifest["files"].items():
        if name != but:
            path = Path(directory) / name
            check_sha256(path, facts, sha256(path))


def sha256(path: Path) -> str:
    """Hexadecimal. UserError if the file cannot be read."""
    try:
        with open(open_regular(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
