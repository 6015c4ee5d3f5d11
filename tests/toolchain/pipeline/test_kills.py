"""A short run of kill_harness.py, the same every time but for the machine's speed; its docstring has the long one."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.kill_harness import Harness

pytestmark = pytest.mark.serial


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(tmp_path, seed=12)


@pytest.mark.parametrize("kind", ["raw", "recipe", "planned"])
def test_killed_builds(harness: Harness, kind: str) -> None:
    harness.builds(3, (kind,))
    assert harness.counts[f"build {kind}"] == 3
    assert harness.counts[f"build {kind}, whole"] >= 1
    harness.check_scratch()


def test_killed_packs_and_installs(harness: Harness) -> None:
    harness.packs(2)
    harness.installs(10)
    assert (harness.counts["pack"], harness.counts["install"]) == (2, 10)


def test_killed_reports(harness: Harness) -> None:
    harness.reports(2)
    assert harness.counts["report"] == 2
    harness.check_scratch()
