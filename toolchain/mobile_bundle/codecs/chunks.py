"""Rows of a matrix that are coded together with error propagation: they do not depend on each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from mobile_bundle.codecs.blob import STRIP_ROWS, BlobHeader
from mobile_bundle.codecs.codec import Encoded, Write, sum_squares
from mobile_bundle.codecs.matrices import Matrix
from mobile_bundle.codecs.source import Floats, MatrixSource
from mobile_bundle.processors import default_jobs

T = TypeVar("T")
P = TypeVar("P")

AT_ONCE = 8192
"""Rows: several copies of them are in RAM."""
_GPU_AT_ONCE, _GPU_LEAST = 2048, 256
"""Where a GPU takes the products, the rest is shared among threads: at most and at least so many rows. With 256 rows a
seventh of the time is Python's own, in which threads take turns; with 48, most of it."""


def coded_chunks(source: MatrixSource, hessian: Matrix, code: Callable[[Floats], T]) -> Iterator[T]:
    """What `code` makes of rows of the source, float32 (n, columns), in their order. n a multiple of 16, but for the
    last rows.

    With a Hessian on a GPU several threads code at a time: one of them would take longer for the scales and searches of
    a wide matrix than the GPU for its products."""
    if isinstance(hessian, np.ndarray):
        yield from map(code, source.chunks(AT_ONCE))
        return
    yield from _in_threads(source.chunks(_gpu_rows(source.rows)), code)


def write_coded(
    source: MatrixSource,
    header: BlobHeader,
    hessian: Matrix,
    write: Write,
    code: Callable[[Floats], tuple[memoryview, Floats]],
) -> Encoded:
    """Hands the payload of a blob to `write`, as coded_chunks codes it. code: rows in units of the header's scale, a
    power of two, to their strips and the values that these stand for."""
    inverse = np.float32(1.0 / header.scale)

    def coded(chunk: Floats) -> tuple[memoryview, float, float]:
        w = chunk * inverse
        strips, values = code(w)
        return strips, sum_squares(values - w), sum_squares(w)

    error = total = 0.0
    for strips, lost, squares in coded_chunks(source, hessian, coded):
        write(strips)
        error += lost
        total += squares
    return Encoded(header, error * header.scale * header.scale, total * header.scale * header.scale)


def coded_pieces(rows: int, hessian: Matrix, code: Callable[[slice], T]) -> list[T]:
    """What `code` makes of rows of a matrix that is in RAM, as coded_chunks does: of all of them, or in threads."""
    if isinstance(hessian, np.ndarray):
        return [code(slice(0, rows))]
    step = _gpu_rows(rows)
    return list(_in_threads((slice(begin, min(begin + step, rows)) for begin in range(0, rows, step)), code))


def _gpu_rows(rows: int) -> int:
    """How many rows a thread takes: most of the time two matrices are coded at once."""
    own = -(-2 * rows // default_jobs())
    return min(max(-(-own // STRIP_ROWS) * STRIP_ROWS, _GPU_LEAST), _GPU_AT_ONCE)


def _in_threads(items: Iterable[P], code: Callable[[P], T]) -> Iterator[T]:
    """The results in the order of the items, of which few wait."""
    threads = default_jobs()
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(code, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
