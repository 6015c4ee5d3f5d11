"""Trials of candidate codes, side by side in processes of their own where a GPU computes.

A trial codes a few rows block by block: thousands of small steps, in which Python itself takes as long as the
searches. Threads would take turns at it, and a GPU would be asked for a result at every step. So a GPU computes the
factors, and processes the rest: they read Hessian and factors from memory that they share with this one.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from mobile_bundle.calibrate.device import is_gpu
from mobile_bundle.calibrate.trial_worker import SharedMatrix, try_shared
from mobile_bundle.codecs.matrices import Matrix
from mobile_bundle.codecs.registry import ordered_for, tried_together, try_candidates
from mobile_bundle.processors import WorkerProcesses, default_jobs, worker_lost

Floats = NDArray[np.float32]
Try = Callable[[Floats, Matrix, Sequence[str]], dict[str, Floats]]
"""registry.try_candidates."""


@contextmanager
def trials(device: torch.device) -> Iterator[Try]:
    """What tries candidates, from any thread. device: where calibration computes."""
    if not is_gpu(device):
        yield try_candidates
        return
    processes = WorkerProcesses(default_jobs())
    one_factor = threading.Lock()

    def try_there(weight: Floats, hessian: Matrix, names: Sequence[str]) -> dict[str, Floats]:
        kinds = tried_together(names)
        if not kinds:
            return {}
        with ExitStack() as stack:
            given = stack.enter_context(_shared(hessian))
            under_way = []
            try:
                for kind in kinds:
                    with one_factor:  # what it takes of the GPU's memory, not several times
                        ordered = ordered_for(kind, hessian)
                    parts = [stack.enter_context(_shared(each)) for each in (ordered.damped, ordered.factor)]
                    under_way.append(processes.submit(try_shared, kind, weight, ordered.order, given, *parts))
                    del ordered  # the GPU's memory
                return {name: errors for each in under_way for name, errors in each.result().items()}
            except BrokenExecutor as error:
                raise worker_lost("use `device` cpu, or fewer processors (taskset)") from error

    try:
        yield try_there
    finally:
        processes.stop()


@contextmanager
def _shared(matrix: Matrix) -> Iterator[SharedMatrix]:
    """A copy of a matrix. The memory is given back at the end, or when the last process lets go of it."""
    columns = len(matrix)
    file = os.memfd_create("mobile-bundle")
    try:
        os.ftruncate(file, 4 * columns * columns)
        with mmap.mmap(file, 0) as memory:
            values = torch.frombuffer(memory, dtype=torch.float32).view(columns, columns)
            values.copy_(torch.from_numpy(matrix) if isinstance(matrix, np.ndarray) else matrix)
            del values
        yield SharedMatrix(f"/proc/{os.getpid()}/fd/{file}", columns)
    finally:
        os.close(file)
