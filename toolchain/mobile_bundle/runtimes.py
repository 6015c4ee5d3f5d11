"""The runners of a bundle on this machine, one per runtime: native, ExecuTorch, ONNX Runtime.

All three are one program with another decoder linked in (runtime/runner/decoder.h): same options, same events."""

from __future__ import annotations

import importlib.util
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mobile_bundle.container.manifest import check_bundle_path, read_manifest
from mobile_bundle.errors import InputError, InstallationError, UserError
from mobile_bundle.native.library import package_file
from mobile_bundle.native.programs import bundle_runner, machine_abi

RUNTIMES = ("native", "executorch", "onnx")
_PACKAGES = {"executorch": "executorch", "onnx": "onnxruntime"}


def runner_command(bundle: Path, runtime: str) -> list[str]:
    """The program to run a bundle with, without its arguments. UserError where bundle or package lack what it needs."""
    check_bundle_path(bundle)
    if runtime == "native":
        return [str(bundle_runner(bundle))]
    made_with = read_manifest(bundle).get("runtimes", {}).get(runtime)
    if made_with is None:
        raise InputError(f"{bundle} was built without {runtime}: build it with `formats` native,{runtime}")
    _check_version(runtime, made_with["version"])
    try:
        runner = package_file("bin", machine_abi(), f"mobile-run-{runtime}")
    except UserError:
        raise InstallationError(
            f"mobile-bundle was installed without its {runtime} runner", "see docs/RUNTIMES.md"
        ) from None
    return [str(runner)]


def bundle_argument(bundle: Path) -> str:
    """The bundle as a runner's argument: a name that begins with a dash must not look like an option."""
    return os.path.join(".", bundle) if str(bundle).startswith("-") else str(bundle)


def runner_environment(runtime: str) -> dict[str, str]:
    """The environment for runner_command's program: where ONNX Runtime's library is."""
    environment = dict(os.environ)
    if runtime == "onnx":
        environment.setdefault("MOBILE_BUNDLE_ONNXRUNTIME", str(onnxruntime_library()))
    return environment


def onnxruntime_library() -> Path:
    """libonnxruntime of the installed onnxruntime package. UserError if there is none."""
    spec = importlib.util.find_spec("onnxruntime")
    for directory in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(directory, "capi").glob("libonnxruntime.so*")):
            return path
    raise InstallationError("ONNX Runtime is needed", "pip install '.[onnx]' in a checkout of mobile-bundle")


def _check_version(runtime: str, made_with: str) -> None:
    """A program may not load, or not mean the same, in another minor version than the one it was exported for."""
    package = _PACKAGES[runtime]
    try:
        installed = version(package)
    except PackageNotFoundError:
        raise InstallationError(
            f"{package} is needed", f"pip install '.[{runtime}]' in a checkout of mobile-bundle"
        ) from None
    if runtime == "executorch" and installed.split(".")[:2] != made_with.split(".")[:2]:
        raise InputError(f"model.pte was made for {package} {made_with}, {installed} is installed: build it again")
