"""How many processors this process may use, and processes that use them."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from mobile_bundle.errors import ResumableError

_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def default_jobs() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerProcesses(ProcessPoolExecutor):
    """Processes of this machine, started when there is work for them, with one BLAS thread each.

    They are spawned, not forked: the fork of a process that has threads or a GPU may hang. A script that comes here
    needs the usual `if __name__ == "__main__":`. They end with this process, even if it is killed."""

    def __init__(self, count: int) -> None:
        self._own_context = _Context()
        super().__init__(count, mp_context=self._own_context, initializer=_start_worker)

    def stop(self) -> None:
        """Ends the processes, whatever they are doing, and drops what waits."""
        for process in self._own_context.processes:
            if process.pid is not None:
                process.terminate()
        self.shutdown(wait=True, cancel_futures=True)


def worker_lost(remedy: str = "try again with fewer `jobs`") -> ResumableError:
    """What a BrokenExecutor of WorkerProcesses means. remedy: against want of memory."""
    return ResumableError(
        "a worker process was killed, perhaps because it ran out of memory",
        f"{remedy}; a Python script must build under if __name__ == '__main__'",
    )


class _Process(SpawnProcess):
    """A process that is born with one BLAS thread: libraries read these variables when they are loaded."""

    def start(self) -> None:
        before = {name: os.environ.get(name) for name in _THREAD_LIMITS}
        os.environ.update(dict.fromkeys(_THREAD_LIMITS, "1"))
        try:
            super().start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


class _Context(SpawnContext):
    """Remembers the processes that it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[_Process] = []

    def Process(self, *arguments: Any, **named: Any) -> _Process:  # type: ignore[override]
        process = _Process(*arguments, **named)
        self.processes.append(process)
        return process


def _start_worker() -> None:
    """Ctrl-C is the parent's to handle. If the parent is killed the worker ends too: it would wait for work for ever,
    because it holds both ends of its own queue."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
