"""What a run keeps on the disk."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from mobile_bundle.errors import ResumableError  # noqa: E402
from mobile_bundle.healing.state import load_saved, save_whole  # noqa: E402

ROOM = (500, 10_000, 4_000_000, 12_000_900, 31_999_900)
"""Where files of this process end: in the first header, in a tensor, between two, in the directory at the end."""


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", ROOM)
def test_a_full_disk_is_one_line_and_what_was_saved_stays(tmp_path: Path, size: int) -> None:
    path = tmp_path / "kept.pt"
    save_whole(path, ["before"])
    with files_of_at_most(size), pytest.raises(ResumableError) as refused:
        save_whole(path, [torch.zeros(3_000_000), torch.ones(5_000_000)])
    assert str(refused.value) == f"no room for {path}; free some space or choose another place"
    assert list(tmp_path.iterdir()) == [path]
    assert load_saved(path) == ["before"]
