"""Rows of a matrix that are coded together with error propagation: they do not depend on each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from mobile_bundle.codecs.matrices import Matrix
from mobile_bundle.codecs.source import Floats, MatrixSource
from mobile_bundle.processors import default_jobs

T = TypeVar("T")

AT_ONCE = 8192
"""Rows: several copies of them are in RAM."""
_GPU_AT_ONCE = 2048
"""Where a GPU takes the products, the rest is shared among threads, down to so many rows."""


def coded_chunks(source: MatrixSource, hessian: Matrix, code: Callable[[Floats], T]) -> Iterator[T]:
    """What `code` makes of rows of the source, float32 (n, columns), in their order. n a multiple of 16, but for the
    last rows.

    With a Hessian on a GPU several threads code at a time: one of them would take longer for the scales and searches of
    a wide matrix than the GPU for its products."""
    if isinstance(hessian, np.ndarray):
        yield from map(code, source.chunks(AT_ONCE))
        return
    threads = default_jobs()
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for chunk in source.chunks(_GPU_AT_ONCE):
            waiting.append(pool.submit(code, chunk))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
