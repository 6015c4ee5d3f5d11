"""Work side by side: whole windows in threads of their own, each product on one thread.

Products of this size gain little from several threads, and lose much where other programs use the processors, too:
the threads of one product wait for the slowest. The results do not depend on the number of threads, either."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mobile_bundle.calibrate.device import CPU, is_gpu
from mobile_bundle.processors import default_jobs

T = TypeVar("T")
R = TypeVar("R")

_threads: ContextVar[ThreadPoolExecutor | None] = ContextVar("_threads", default=None)
"""Those of `one_thread_each`, of the thread that entered it. They stay the same, because what a new thread allocates
comes from another part of the heap, of which much is never given back."""

_MOST_THREADS = 4
"""Every thread may hold the sums of one layer's inputs."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h, as glibc has it since ever; musl has no mallopt."""
_KEPT_PIECE = 32 << 20
"""The largest piece that may come from the heap; glibc takes no more."""
_KEPT_TOP = 1 << 30
_PRECISION = "medium"
"""Of torch's float32 products on x86: by oneDNN, up to twice as fast as MKL on AMD's processors. Without AMX it is
float32 all the same."""
_EXACT_PRECISION = "highest"
"""Elsewhere: no TF32 and no bfloat16 where float32 is asked for, as gradients want it."""


@contextmanager
def one_thread_each(device: torch.device = CPU) -> Iterator[None]:
    """Meanwhile every product of torch and NumPy runs in the thread that asks for it. device: where torch's run."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    processor = torch.cpu.get_capabilities()
    quick = not is_gpu(device) and processor.get("architecture") == "x86_64" and not processor.get("amx_bf16")
    torch.set_float32_matmul_precision(_PRECISION if quick else _EXACT_PRECISION)
    _keep_memory()
    pool = ThreadPoolExecutor(min(default_jobs(), _MOST_THREADS), "calibrate")
    before = _threads.set(pool)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        _threads.reset(before)
        pool.shutdown(cancel_futures=True)
        give_memory_back()
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def _keep_memory() -> None:
    """From now on the C library keeps what is freed until `give_memory_back`, where it can do that. Tensors of a few MB
    come and go by the thousand; each would otherwise be fresh pages, which cost as much as the work on them."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option:
        set_option(_M_MMAP_THRESHOLD, _KEPT_PIECE)
        set_option(_M_TRIM_THRESHOLD, _KEPT_TOP)


def give_memory_back() -> None:
    """What is free of the heap goes back to the system, where the C library can do that. Freed pieces of less than
    32 MB stay with the process otherwise, one part of the heap per thread."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def side_by_side(work: Callable[[T], R], items: Iterable[T], device: torch.device = CPU) -> Iterator[R]:
    """The results in the order of the items, whose work runs in several threads, and begins at once in those of
    `one_thread_each`: work that does not ask for work side by side itself.

    device: where the work is done. A GPU does one piece after the other, when its result is asked for: it takes all of
    one, and several results at once would only take its memory."""
    if is_gpu(device):
        return map(work, items)
    pool = _threads.get()
    return pool.map(work, items) if pool else _in_new_threads(work, items)


def _in_new_threads(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    with ThreadPoolExecutor(min(default_jobs(), _MOST_THREADS)) as pool:
        yield from pool.map(work, items)
