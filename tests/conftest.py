"""What the tests share: the models beside the project, and bundles that are built once."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock
from mobile_bundle import lab
from mobile_bundle.native.programs import missing_runners, runner_paths
from mobile_bundle.planning.recipe import Recipe
from support.builds import build
from support.checkpoints import pack_bitnet, write_tiny
from support.paths import EXAMPLE, SHARED
from support.processes import FUZZ_SEED, common_folder

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is loaded: its threads spin while they wait, and so take the processors from the other worker.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Every run tries the same examples; `--hypothesis-profile default` tries others, as `make fuzz` does.
hypothesis.settings.register_profile("fixed", derandomize=True)
hypothesis.settings.load_profile("fixed")


def pytest_report_header() -> str:
    """The random numbers behind this run."""
    return f"random seeds: fixed, {FUZZ_SEED} for the fuzz targets; `make fuzz` takes fresh ones"


@functools.cache
def _built_for_this_machine_alone() -> bool:
    return bool(missing_runners(runner_paths()))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what a developer's build cannot run."""
    if item.get_closest_marker("full") and _built_for_this_machine_alone():
        pytest.skip("needs what `make dev` leaves out: programs for phones, other runtimes, the package in one folder")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of models and texts beside the project; tests that need it are skipped where it is not."""
    if not SHARED.is_dir():
        pytest.skip("needs the models and texts of ../shared")
    return SHARED


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """bundle(recipe, model=the example, formats=native): a bundle of it with runners for every ABI, built once for all
    processes that run tests. Nothing may be written into it."""
    directory = common_folder(tmp_path_factory, "bundles")

    @functools.cache
    def built(
        recipe: str | Recipe | None = None, model: Path = EXAMPLE, formats: tuple[str, ...] = ("native",)
    ) -> Path:
        name = recipe.name if isinstance(recipe, Recipe) else recipe
        asked = hashlib.sha256(repr((recipe, str(model), formats)).encode()).hexdigest()[:8]
        out = directory / f"{model.name}-{name}-{'-'.join(formats)}-{asked}.mbundle"
        with FileLock(out.with_suffix(".lock")):
            if not out.exists():
                build(model, out, recipe, formats=formats)
        return out

    return built


@pytest.fixture(scope="session")
def bitnet(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """bitnet(kind): a packed BitNet checkpoint, "made" here from random weights, or the "trained" one of ../shared."""

    @functools.cache
    def checkpoint(kind: str) -> Path:
        if kind == "trained":
            shared: Path = request.getfixturevalue("shared")
            return shared / "models/ternary"
        folder = tmp_path_factory.mktemp("bitnet")
        return pack_bitnet(write_tiny(folder / "master", "bitnet"), folder / "bitnet")

    return checkpoint


@pytest.fixture(scope="session")
def adb_server() -> Iterator[int]:
    """The port of an adb server of our own, for this process and all it starts: killing it disturbs nobody."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = os.environ.get("ANDROID_ADB_SERVER_PORT")
    os.environ["ANDROID_ADB_SERVER_PORT"] = str(port)
    yield port
    with contextlib.suppress(FileNotFoundError):
        subprocess.run(["adb", "kill-server"], capture_output=True)
    if before is None:
        del os.environ["ANDROID_ADB_SERVER_PORT"]
    else:
        os.environ["ANDROID_ADB_SERVER_PORT"] = before


@pytest.fixture(scope="session")
def native_lab(adb_server) -> Callable[..., contextlib.AbstractContextManager[lab.LabDevice]]:
    """lab.start("native", ...); skips where the machine cannot have a lab at all."""
    if why := lab.obstacle("native"):
        pytest.skip(why)
    return functools.partial(lab.start, "native")
