"""`pip install .`, and `uv pip install` of an sdist, into an environment that has nothing: the installed commands build
and run a bundle. Without the cross builds for phones (MB_HOST_ONLY), which `make test` has made before."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from support.paths import EXAMPLE, ROOT

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed; nothing of this environment leaks into it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    process = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-4000:]
    return process.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as a clone has it, with the edits that are not committed yet."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    copy = tmp_path_factory.mktemp("source")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    return copy


@pytest.mark.parametrize("kind", ["folder", "sdist"])
def test_an_installation_builds_and_runs_a_bundle(source: Path, tmp_path: Path, kind: str) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=kind == "folder")
    python = environment / "bin/python"
    host_only = "--config-settings=cmake.define.MB_HOST_ONLY=ON"
    if kind == "folder":
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", host_only, source, cwd=tmp_path)
    else:
        run("uv", "build", "--quiet", "--sdist", "--out-dir", tmp_path / "dist", source, cwd=tmp_path)
        package = next((tmp_path / "dist").glob("mobile_bundle-*.tar.gz"))
        run("uv", "pip", "install", "--quiet", "--python", python, host_only, package, cwd=tmp_path)
    where = run(python, "-c", "import mobile_bundle; print(mobile_bundle.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(environment)
    bundle = tmp_path / "example.mbundle"
    run(environment / "bin/build-mobile-bundle", EXAMPLE, "-o", bundle, "--recipe", "affine-4bit", cwd=tmp_path)
    mine = (environment / "bin/mobile-bundle", "run", bundle, "--prompt", "The history of the city")
    text = run(*mine, "--max-new-tokens", "8", cwd=tmp_path)
    ours = (sys.executable, "-m", "mobile_bundle.cli.main", *mine[1:])
    assert text == run(*ours, "--max-new-tokens", "8", cwd=tmp_path)
    assert len(text.split()) > 3
    assert run(environment / "bin/mobile-bundle", "verify", bundle, cwd=tmp_path)
