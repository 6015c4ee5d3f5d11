"""manifest.json: what a bundle is, and the sha256 of every file. manifest.schema.json beside this file defines it."""

from __future__ import annotations

import hashlib
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from jsonschema.exceptions import best_match  # type: ignore[import-untyped]

from mobile_bundle.container.disk import write_file
from mobile_bundle.errors import UserError

NAME = "manifest.json"
FORMAT = "mobile-bundle"
FORMAT_VERSION = 1
_LARGEST = 64 << 20


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of manifest.json."""
    text = resources.files("mobile_bundle.container").joinpath("manifest.schema.json").read_text("utf-8")
    value: dict[str, Any] = json.loads(text)
    return value


def write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    """Writes manifest.json, synced; the last file of a bundle."""
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
    partial = directory / f".{NAME}.partial"
    write_file(partial, text.encode("utf-8") + b"\n")
    os.replace(partial, directory / NAME)


def read_manifest(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a bundle. UserError if the directory is not a bundle, or one this version cannot read."""
    path = Path(directory) / NAME
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{directory} is not a bundle: it has no {NAME}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    try:
        manifest = json.loads(data) if len(data) <= _LARGEST else None
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path} is damaged or not a bundle's; build the bundle again")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {manifest.get('format_version')!r}, this program reads {FORMAT_VERSION}; "
            f"build the bundle again or update the program"
        )
    problem = best_match(Draft202012Validator(schema()).iter_errors(manifest))
    if problem is not None:
        where = "/".join(str(part) for part in problem.absolute_path) or "it"
        reason = problem.message if len(problem.message) < 100 else "not as the format asks for"
        raise UserError(f"{path} is damaged ({where}: {reason}); build the bundle again")
    return manifest


def is_bundle(directory: Path) -> bool:
    """Whether the directory holds a manifest of ours, of any version."""
    try:
        manifest = json.loads((directory / NAME).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def describe_files(directory: Path) -> dict[str, dict[str, Any]]:
    """{path with forward slashes: {bytes, sha256}} of every file of the tree but the manifest, sorted."""
    out = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = path.relative_to(directory).as_posix()
        if name != NAME:
            out[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    return out


def check_files(directory: str | os.PathLike[str], manifest: dict[str, Any]) -> None:
    """Looks for every file that the manifest names and compares sizes. UserError at the first that differs."""
    root = Path(directory)
    for name, facts in manifest["files"].items():
        path = root / name
        if not isinstance(facts, dict) or Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{root / NAME} is damaged: its entry for {name!r} makes no sense")
        if path.is_symlink() or not path.is_file():
            raise UserError(f"{root} is incomplete: {name} is missing; build the bundle again")
        size = path.stat().st_size
        if size != facts.get("bytes"):
            raise UserError(f"{path} has {size} bytes, the manifest says {facts.get('bytes')}; build the bundle again")


def check_sha256(path: Path, facts: dict[str, Any], found: str) -> None:
    """UserError unless `found` is what the manifest says of the file."""
    if found != facts.get("sha256"):
        raise UserError(f"{path} is damaged: its sha256 is not the manifest's; build the bundle again")


def verify_files(directory: str | os.PathLike[str], manifest: dict[str, Any], but: str = "") -> None:
    """Reads every file that the manifest names, one perhaps left out, and compares size and sha256. UserError at the
    first that differs."""
    check_files(directory, manifest)
    for name, facts in manifest["files"].items():
        if name != but:
            path = Path(directory) / name
            check_sha256(path, facts, sha256(path))


def sha256(path: Path) -> str:
    """Hexadecimal. UserError if the file cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
