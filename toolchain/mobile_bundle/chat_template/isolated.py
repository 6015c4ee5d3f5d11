"""Runs the worker in a child process with limits of time and memory."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from mobile_bundle.chat_template import worker

_WALL_SECONDS = 300
"""CPU_SECONDS is the limit that a template meets: nothing in it can wait. This one is for a worker that hangs all the
same, and so long that a machine busy with other work does not lose a good template."""


class Refused(Exception):
    """Why a template cannot be used, in one line."""


def examine(source: str, constants: Mapping[str, Any], now: datetime.datetime) -> dict[str, Any]:
    """The worker's answer about a template. Raises Refused when there is none."""
    job = {"source": source, "constants": dict(constants), "now": now.isoformat()}
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    try:
        process = subprocess.run(
            [sys.executable, "-m", worker.__name__],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            timeout=_WALL_SECONDS,
            cwd="/",
            env={**os.environ, "PYTHONPATH": paths},
        )
    except subprocess.TimeoutExpired:
        raise Refused(f"it takes more than {_WALL_SECONDS} s") from None
    if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise Refused(f"it takes more than {worker.CPU_SECONDS} s of processor time")
    try:
        answer: dict[str, Any] = json.loads(process.stdout)
    except ValueError:
        raise Refused(f"the process that rendered it ended with {process.returncode}") from None
    if "error" in answer:
        raise Refused(answer["error"])
    return answer
