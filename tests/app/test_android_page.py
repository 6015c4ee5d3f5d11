"""docs/ANDROID.md: every fault of the review names a test that is there."""

from __future__ import annotations

import re

import pytest
from support.paths import ROOT

PAGE = (ROOT / "docs/ANDROID.md").read_text()
KOTLIN = {path.stem: path.read_text() for path in (ROOT / "android_demo/app/src/test").rglob("*.kt")}
NUMBERED = 15
LOW = 9


def rows() -> list[list[str]]:
    """Of the table of faults: number, what was wrong, what it does now, tests."""
    lines = (line.strip("|").split(" | ") for line in PAGE.splitlines() if re.match(r"\| (\d+|low) \|", line))
    return [[cell.strip() for cell in line] for line in lines]


def test_every_fault_of_the_review_is_in_the_table():
    numbers = [row[0] for row in rows()]
    assert numbers == [str(n) for n in range(1, NUMBERED + 1)] + ["low"] * LOW


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]}-{row[1][:20]}")
def test_its_test_is_there(row):
    named = re.findall(r"`([^`]+)`", row[3])
    assert named
    for name in named:
        if name.endswith(".py"):
            assert (ROOT / "tests/app" / name).is_file()
            continue
        test_class, _, function = name.partition(".")
        wanted = rf"@Test\s+fun {function.removesuffix('…')}(?!\d)" if function else "@Test"
        found = re.findall(wanted, KOTLIN[test_class])
        assert found, name
        count = re.search(rf"`{re.escape(name)}` \((\d+) tests\)", row[3])
        assert not count or len(found) == int(count[1]), name
    if row[0].isdigit() and not named[0].endswith(".py"):
        assert f".fault{row[0]}" in row[3], "the number is in the test's name"
