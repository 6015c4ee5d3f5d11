"""The runners for a device, one per runtime, or why there is none."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mobile_bundle.device.measuring.cells import Settings
from mobile_bundle.device.measuring.program import MobileRun
from mobile_bundle.device.transport.device_info import DeviceInfo
from mobile_bundle.errors import InputError, InstallationError, UnsupportedError, UserError
from mobile_bundle.native.library import package_file
from mobile_bundle.native.programs import machine_abi
from mobile_bundle.runtimes import onnxruntime_library


def available_runners(
    bundle: Path,
    manifest: dict[str, Any],
    runtimes: Sequence[str],
    abi: str,
    info: DeviceInfo,
    settings: Settings,
    force: bool,
) -> tuple[list[MobileRun], dict[str, str]]:
    """(what can be run, {runtime: why not}) of those runtimes on a device, whose ABI is `abi`."""
    runners, missing = [], {}
    for runtime in runtimes:
        try:
            program, libraries = _program(bundle, manifest, runtime, abi, info)
        except UserError as error:
            missing[runtime] = f"not available: {error}"
            continue
        runners.append(MobileRun(runtime, program, libraries, settings, force))
    return runners, missing


def _program(
    bundle: Path, manifest: dict[str, Any], runtime: str, abi: str, info: DeviceInfo
) -> tuple[Path, Mapping[str, Path]]:
    """A runner and {name on the device: local file} of the libraries that it loads. UserError where there is none."""
    if runtime == "native":
        program = bundle / "bin" / abi / "mobile-run"
        if not program.exists():
            raise InputError(f"the bundle has no runner for {abi}")
        return program, {}
    if runtime not in manifest.get("runtimes", {}):
        raise InputError(f"the bundle was built without {runtime} (build it again with `formats` native,{runtime})")
    # native runners are static; these are built against this machine's own runtime and C library
    if abi != machine_abi() or info.android is not None:
        raise UnsupportedError(f"the {runtime} runner was built only for this host's platform")
    try:
        program = package_file("bin", abi, f"mobile-run-{runtime}")
    except UserError:
        raise InstallationError(f"mobile-bundle was installed without its {runtime} runner (make runtimes)") from None
    return program, _onnx_libraries() if runtime == "onnx" else _executorch_libraries()


def _onnx_libraries() -> dict[str, Path]:
    operators = package_file("lib", "libmobile_bundle_onnx.so")
    return {"libonnxruntime.so": onnxruntime_library(), operators.name: operators}


def _executorch_libraries() -> dict[str, Path]:
    spec = importlib.util.find_spec("executorch")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        paths = [Path(folder, "lib", f"{name}.so") for name in ("libexecutorch", "libexecutorch_threadpool")]
        if all(path.exists() for path in paths):
            return {path.name: path for path in paths}
    raise InstallationError("ExecuTorch is needed", "pip install '.[executorch]' in a checkout of mobile-bundle")
