"""What a run keeps on the disk, and what a full disk does to it."""

from __future__ import annotations

import io
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mobile_bundle.calibrate.walk import read_matrix  # noqa: E402
from mobile_bundle.errors import ResumableError  # noqa: E402
from mobile_bundle.healing import own_text  # noqa: E402
from mobile_bundle.healing.result import write_result  # noqa: E402
from mobile_bundle.healing.state import _save, load_saved, save_whole  # noqa: E402
from mobile_bundle.models import open_model  # noqa: E402
from support.paths import EXAMPLE  # noqa: E402

ROOM = (500, 10_000, 4_000_000, 12_000_800, 32_000_830, 32_001_500)
"""Where files of this process end: in the headers, early and late in the first tensor, between the two, in the last
bytes of the second, in the directory behind it."""


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


class Interrupted(io.BytesIO):
    def write(self, data: Any) -> int:
        if len(data) > 100_000:
            raise KeyboardInterrupt
        return super().write(data)


def test_an_interrupt_while_it_is_written_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt):
        _save([torch.zeros(3_000_000)], Interrupted())


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_full_disk_under_the_result(tmp_path: Path, size: int) -> None:
    with open_model(EXAMPLE) as model:
        tensors = {each.name: torch.from_numpy(read_matrix(model, each)) for each in model.tensors if each.source}
        tensors = {name: value[0] if len(value) == 1 else value for name, value in tensors.items()}
        facts: dict[str, Any] = {}
        with files_of_at_most(size), pytest.raises(ResumableError, match=r"^no room for .*: it needs 23\.\d MB"):
            write_result(tmp_path, model, tensors, facts, tmp_path / "none", "")


def test_a_full_disk_under_the_own_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Writer:
        def __init__(self, *_: Any) -> None: ...

        def write(self, *_: Any) -> Any:
            return np.ones((100, 1000), np.int32)

    monkeypatch.setattr(own_text, "Writer", Writer)
    openings = own_text.Openings(None, [np.ones(3, np.int32)])
    folder, none = tmp_path / "own", cast(Any, None)

    def write() -> list[Path]:
        return own_text.own_text(none, openings, folder, tokens=100_000, length=1000, at_once=100, seed=0)

    with (
        files_of_at_most(100_000),
        pytest.raises(ResumableError, match=r"^no room for .*own-00000\.npy: it needs 0\.4 MB"),
    ):
        write()
    assert list(folder.iterdir()) == []
    assert [np.load(each).shape for each in write()] == [(100, 1000)]
