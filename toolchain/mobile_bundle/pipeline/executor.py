"""Where tensors are coded: threads of this process, processes of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import hashlib
import re
import secrets
from abc import ABC, abstractmethod
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mobile_bundle.errors import ArgumentError, InstallationError, ResumableError, UserError
from mobile_bundle.pipeline.identity import tool_identity
from mobile_bundle.processors import WorkerProcesses, worker_lost

_ADDRESS = re.compile(r"[a-z]+://.+")
_BEGINNING = 1 << 20
"""Bytes of a file that tell whether a worker sees the same one."""


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
            return worker_lost()
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
    """Processes of this machine (WorkerProcesses)."""

    def __init__(self, count: int) -> None:
        self._processes = WorkerProcesses(count)
        super().__init__(self._processes, count)

    def close(self) -> None:
        self._processes.stop()  # what they have not finished is a temporary file


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
