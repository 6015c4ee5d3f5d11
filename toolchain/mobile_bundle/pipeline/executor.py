"""Where tensors are coded: threads of this process, processes of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import signal
import threading
from abc import ABC, abstractmethod
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

from mobile_bundle.errors import ArgumentError, InstallationError, ResumableError, UserError
from mobile_bundle.pipeline.identity import tool_identity

_ADDRESS = re.compile(r"[a-z]+://.+")
_BEGINNING = 1 << 20
"""Bytes of a file that tell whether a worker sees the same one."""
_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class Workers(ABC):
    """An executor, and how many calls it runs at a time. shared_memory: whether it runs them in this process."""

    shared_memory = False

    def __init__(self, executor: Executor, count: int) -> None:
        self.executor = executor
        self.count = count

    @abstractmethod
    def close(self) -> None:
        """Drops what waits, and ends what runs as soon as that is possible."""

    def explain(self, error: BaseException) -> UserError | None:
        """What to tell a person if the exception means that a worker died; None for any other."""
        if isinstance(error, BrokenExecutor):
            return ResumableError(
                "a worker process was killed, perhaps because it ran out of memory",
                "try again with fewer `jobs`; a Python script must build under if __name__ == '__main__'",
            )
        if isinstance(error, MemoryError):
            return ResumableError("out of memory", "try again with fewer `jobs`")
        return None


class ThreadWorkers(Workers):
    """Threads of this process. NumPy and the C library let go of the interpreter's lock."""

    shared_memory = True

    def __init__(self, count: int) -> None:
        super().__init__(ThreadPoolExecutor(count), count)

    def close(self) -> None:
        self.executor.shutdown(wait=True, cancel_futures=True)


class ProcessWorkers(Workers):
    """Processes of this machine, started when there is work for them, with one BLAS thread each.

    They are spawned, not forked: the fork of a process that has threads or a GPU may hang. A script that comes here
    needs the usual `if __name__ == "__main__":`. They end with this process, even if it is killed."""

    def __init__(self, count: int) -> None:
        self._context = _Context()
        super().__init__(ProcessPoolExecutor(count, mp_context=self._context, initializer=_start_worker), count)

    def close(self) -> None:
        for process in self._context.processes:
            if process.pid is not None:
                process.terminate()  # what it has not finished is a temporary file
        self.executor.shutdown(wait=True, cancel_futures=True)


class ClusterWorkers(Workers):
    """The workers of a Dask cluster that others run; `close` only hangs up.

    Each must have this very version of mobile-bundle, and see `checkpoint` and `parts` (absolute paths) under the same
    paths: all of them are asked before any work is sent. UserError if the cluster cannot be used."""

    def __init__(self, address: str, checkpoint: Path, parts: Path) -> None:
        try:
            import distributed
        except ImportError as error:
            raise InstallationError(
                "`cluster` needs Dask", "pip install '.[cluster]' in a checkout of mobile-bundle"
            ) from error
        if not _ADDRESS.fullmatch(address):
            raise ArgumentError(f"`cluster` {address!r}: must be an address, such as tcp://10.0.0.5:8786")
        connect: Any = distributed.Client
        try:
            self._client = connect(address, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ArgumentError(f"cannot reach a Dask scheduler at {address}: {error}") from error
        try:
            # threads of all workers: so many tensors are coded at a time
            count = sum(self._client.nthreads().values())
            if count == 0:
                raise ArgumentError(
                    f"the Dask cluster at {address} has no workers: start some with `dask worker {address}`"
                )
            _check_workers(self._client, address, checkpoint, parts)
            super().__init__(self._client.get_executor(pure=False), count)
        except BaseException:
            self._client.close()
            raise

    def close(self) -> None:
        self.executor.shutdown(wait=False)  # Dask cancels what waits; what runs ends by itself, and harms nobody
        self._client.close()

    def explain(self, error: BaseException) -> UserError | None:
        if isinstance(error, UserError):
            return None
        # Dask's futures fail in several ways when a worker or the scheduler goes, with a TypeError among them
        what = " ".join(f"{type(error).__name__} {error}".split())
        return ResumableError(
            f"the Dask cluster failed ({what})", "check that its workers are still running, and try again"
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


def _check_workers(client: Any, address: str, checkpoint: Path, parts: Path) -> None:
    marker = parts / f"marker-{secrets.token_hex(4)}.tmp"
    marker.write_text(secrets.token_hex(16))
    paths = [str(checkpoint / "config.json" if checkpoint.is_dir() else checkpoint), str(marker)]
    here = _identities(paths)
    try:
        answers = client.run(_identities, paths)
    except ImportError as error:
        raise InstallationError(
            f"the workers of {address} do not have mobile-bundle ({error})", "install it there"
        ) from error
    finally:
        marker.unlink()
    for worker, there in answers.items():
        if there[0] != here[0]:
            raise InstallationError(
                f"the worker {worker} has mobile-bundle {there[0]}, this machine has {here[0]}",
                "install the same version there",
            )
        for path, ours, theirs in zip(paths, here[1:], there[1:], strict=True):
            if ours != theirs:
                raise ArgumentError(
                    f"the worker {worker} does not see {path}: checkpoint and output must lie on a file system that "
                    f"all workers share, under the same path"
                )


def _identities(paths: list[str]) -> list[str]:
    """The tool's identity, and of the beginning of every file a digest, "" for one that cannot be read. Runs on a
    worker."""
    digests = []
    for path in paths:
        try:
            with open(path, "rb") as file:
                digests.append(hashlib.sha256(file.read(_BEGINNING)).hexdigest())
        except OSError:
            digests.append("")
    return [tool_identity(), *digests]
