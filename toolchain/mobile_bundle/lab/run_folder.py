"""A folder for each device that runs, and the sweeping of those whose supervisor was killed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mobile_bundle.errors import UserError
from mobile_bundle.lab.cache import locked
from mobile_bundle.lab.cgroup import memory_hierarchy, remove_cgroup

_PREFIX = "mobile-bundle-lab-"


@contextmanager
def run_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new folder below `parent`, gone at the end. First removes what killed supervisors left, cgroups included."""
    parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with locked(parent):
            _sweep(parent)
            folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{name}-", dir=parent))
            stack.enter_context(locked(folder))  # for as long as this supervisor lives
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def _sweep(parent: Path) -> None:
    """Removes the folders that no living supervisor has locked; the kernel killed their devices with them."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError), locked(folder, wait=False):
            with suppress(OSError, UserError):
                remove_cgroup(memory_hierarchy().path / folder.name)
            shutil.rmtree(folder, ignore_errors=True)
