"""Processes that cannot outlive the one that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def start_bound(
    command: list[str],
    log: Path,
    stdin: int | IO[bytes],
    environment: Mapping[str, str] | None = None,
    before: Callable[[], None] = lambda: None,
) -> subprocess.Popen[bytes]:
    """Starts a program that the kernel kills when this process ends, however it ends. before: runs in the child first.

    Its output goes to `log`. To be called by the main thread: the kernel watches the thread."""
    parent = os.getpid()

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(127)
        before()

    with log.open("wb") as output:
        return subprocess.Popen(
            command, stdin=stdin, stdout=output, stderr=subprocess.STDOUT, env=environment,
            start_new_session=True, preexec_fn=prepare,
        )  # fmt: skip


def last_line(log: Path) -> str:
    """The last line that a program wrote, for an error message; an indented one goes on from the one before it."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line and not line[0].isspace()]
    return lines[-1] if lines else "it said nothing"
