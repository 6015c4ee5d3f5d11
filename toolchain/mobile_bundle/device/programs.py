"""The runners that there are for a device, one per runtime; or why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mobile_bundle.device.cells import Settings
from mobile_bundle.device.subject import MobileRun
from mobile_bundle.errors import UserError
from mobile_bundle.native import machine_abi, package_file
from mobile_bundle.runtimes import onnxruntime_library


def runtime_subjects(
    bundle: Path, manifest: dict[str, Any], runtimes: Sequence[str], abi: str, settings: Settings, force: bool
) -> tuple[list[MobileRun], dict[str, str]]:
    """(what can be run, {runtime: why not}) of those runtimes on a device of that ABI."""
    subjects, missing = [], {}
    for runtime in runtimes:
        try:
            program, libraries = _program(bundle, manifest, runtime, abi)
        except UserError as error:
            missing[runtime] = f"not available: {error}"
            continue
        subjects.append(MobileRun(runtime, program, libraries, settings.threads, settings.context, force))
    return subjects, missing


def _program(bundle: Path, manifest: dict[str, Any], runtime: str, abi: str) -> tuple[Path, Mapping[str, Path]]:
    if runtime == "native":
        program = bundle / "bin" / abi / "mobile-run"
        if not program.exists():
            raise UserError(f"the bundle has no runner for {abi}")
        return program, {}
    if runtime not in manifest.get("runtimes", {}):
        raise UserError(f"the bundle was built without {runtime} (build it with --formats native,{runtime})")
    try:
        program = package_file("bin", abi, f"mobile-run-{runtime}")
    except UserError:
        raise UserError(f"this installation has no {runtime} runner for {abi}") from None
    if runtime == "onnx":
        if abi != machine_abi():
            raise UserError(f"this installation has no ONNX Runtime library for {abi}")
        return program, {"MOBILE_BUNDLE_ONNXRUNTIME": onnxruntime_library()}
    return program, {}
