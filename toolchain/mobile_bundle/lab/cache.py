"""What the labs keep between runs: systems built once, and a folder for the devices that run now."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_HERE = Path(__file__).parent
_RECIPES = ("debian.py", "system.py", "initramfs.py", "files/adbd_loopback.c", "files/machine_init.sh")


def cache_folder() -> Path:
    """MOBILE_BUNDLE_LAB_CACHE, or mobile-bundle/lab in the user's cache folder; made where it is missing."""
    named = os.environ.get("MOBILE_BUNDLE_LAB_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(named) if named else Path(home, "mobile-bundle", "lab")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.absolute()


def _recipe_version() -> str:
    """Changes with every file that has a part in building a system."""
    digest = hashlib.sha256()
    for name in _RECIPES:
        digest.update((_HERE / name).read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Holds an exclusive lock on a folder. Raises BlockingIOError when another process has it and wait is False."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """The folder that build(folder) has filled, now or in an earlier run; it is there whole or not at all.

    Two who ask at once get one folder, built once."""
    folder = cache_folder()
    target = folder / f"{name}-{_recipe_version()}"
    if target.is_dir():
        return target
    with locked(folder):
        if not target.is_dir():
            for left in folder.glob(f".{name}-*"):  # of a builder that was killed: the lock says that none is at work
                shutil.rmtree(left, ignore_errors=True)
            fresh = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))
            try:
                fresh.chmod(0o755)
                build(fresh)
                fresh.rename(target)
            except BaseException:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
    return target
