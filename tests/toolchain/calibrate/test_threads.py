"""Work side by side: the order of results, threads that stay, and builds that do not share them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("torch")

from mobile_bundle.calibrate.threads import give_memory_back, one_thread_each, side_by_side


def test_results_come_in_the_order_of_the_items() -> None:
    assert list(side_by_side(lambda n: n * n, range(20))) == [n * n for n in range(20)]
    with one_thread_each():
        assert list(side_by_side(lambda n: n * n, range(20))) == [n * n for n in range(20)]


def test_threads_stay_and_are_a_builds_own() -> None:
    """Another build, in another thread, ends first: this one's work goes on."""
    with one_thread_each():
        begun = side_by_side(lambda n: n, range(3))
        before = set(threading.enumerate())
        assert list(begun) == [0, 1, 2]

        def other() -> list[int]:
            with one_thread_each():
                return list(side_by_side(lambda n: -n, range(3)))

        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(other).result() == [0, -1, -2]
        assert list(side_by_side(lambda n: n, range(3))) == [0, 1, 2]
        give_memory_back()
    assert all(not thread.is_alive() for thread in before if thread.name.startswith("calibrate"))


def test_work_begins_at_once() -> None:
    """Without anybody having asked for a result."""
    begun = threading.Event()
    with one_thread_each():
        waiting = side_by_side(lambda _: begun.set(), range(1))
        assert begun.wait(30)
        assert list(waiting) == [None]
