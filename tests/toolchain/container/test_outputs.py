"""Nothing that somebody else put at an output's name is lost, whatever the moment; nor is the result."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mobile_bundle.container.manifest import fingerprint, obstacle
from mobile_bundle.errors import UserError
from mobile_bundle.files import commit
from mobile_bundle.files.atomic import AtomicDirectory
from mobile_bundle.files.commit import OutputTaken
from mobile_bundle.files.output_file import OutputFile
from mobile_bundle.files.work_folder import WorkFolder, scratch_folder
from support.paths import EXAMPLE

BUILD = [sys.executable, "-m", "mobile_bundle.cli.build"]
TOOL = [sys.executable, "-m", "mobile_bundle.cli.main"]


def bundle_at(path: Path, text: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "data").write_text(text)
    (path / "manifest.json").write_text(json.dumps({"format": "mobile-bundle", "text": text, "files": {"data": {}}}))
    return path


def directory_at(target: Path) -> AtomicDirectory:
    return AtomicDirectory(target, obstacle, fingerprint)


def contents(path: Path) -> object:
    """Everything that can be lost: what a name is, links not followed."""
    if path.is_symlink():
        return os.readlink(path)
    if path.is_dir():
        return {child.name: contents(child) for child in sorted(path.iterdir())}
    return path.read_text() if path.exists() else None


APPEARING: dict[str, Callable[[Path], object]] = {
    "folder": lambda path: (path.mkdir(), (path / "thesis.txt").write_text("three years")),
    "empty folder": lambda path: path.mkdir(),
    "bundle": lambda path: bundle_at(path, "somebody else's"),
    "file": lambda path: path.write_text("three years"),
    "link": lambda path: path.symlink_to(".."),
    "dangling link": lambda path: path.symlink_to("nowhere"),
}


@pytest.fixture(params=["exchange", "steps"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With renameat2, and where the system or the file system does not have it."""
    if request.param == "steps":
        monkeypatch.setattr("mobile_bundle.files.rename._renameat2", lambda *_: errno.ENOSYS)


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("kind", APPEARING)
def test_what_appears_at_the_name_stays(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "x.mbundle"
    for kept in ("x.mbundle.new", "x.mbundle.new-2"):
        with directory_at(target) as directory:
            bundle_at(directory.path, kept)
            APPEARING[kind](target)
            before = contents(target)
            with pytest.raises(OutputTaken, match=rf"x\.mbundle appeared meanwhile .* {tmp_path / kept}: move it"):
                directory.commit()
        assert contents(target) == before
        assert (tmp_path / kept / "data").read_text() == kept
        shutil.rmtree(target) if target.is_dir() and not target.is_symlink() else target.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.mbundle.new", "x.mbundle.new-2"]


CHANGES: dict[str, Callable[[Path], object]] = {
    "another bundle": lambda path: (shutil.rmtree(path), bundle_at(path, "somebody else's")),
    "another build's": lambda path: bundle_at(path, "built again in place"),
    "a file of one's own in it": lambda path: (path / "thesis.txt").write_text("three years"),
    "a link in it": lambda path: (path / "folder").symlink_to(".."),
    **{
        f"{kind} instead": lambda path, make=make: (shutil.rmtree(path), make(path)) for kind, make in APPEARING.items()
    },
}


@pytest.mark.parametrize("moment", ["commit", "exchange", "rename_new"])
@pytest.mark.parametrize("kind", CHANGES)
def test_a_bundle_that_is_no_longer_the_same_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, moment: str
) -> None:
    """moment: the change comes before the commit, or in the narrowest gap, after the last look: before names are
    exchanged, or renamed one after the other."""
    target = bundle_at(tmp_path / "x.mbundle", "old")
    with directory_at(target) as directory:
        bundle_at(directory.path, "new")
        if moment == "commit":
            CHANGES[kind](target)
        else:
            real = getattr(commit, moment)

            def late(one, other):
                monkeypatch.setattr(commit, moment, real)
                CHANGES[kind](target)
                return real(one, other)

            monkeypatch.setattr(commit, moment, late)
        if moment == "rename_new":
            monkeypatch.setattr("mobile_bundle.files.rename._renameat2", lambda *_: errno.ENOSYS)
        with pytest.raises(OutputTaken, match=r"x\.mbundle was changed or replaced meanwhile"):
            directory.commit()
    expected = tmp_path / "expected"
    CHANGES[kind](bundle_at(expected, "old"))
    assert contents(target) == contents(expected)
    assert (tmp_path / "x.mbundle.new/data").read_text() == "new"
    assert not list(tmp_path.glob(".*"))


def test_a_bundle_that_went_away_is_no_obstacle(tmp_path: Path) -> None:
    target = bundle_at(tmp_path / "x.mbundle", "old")
    with directory_at(target) as directory:
        bundle_at(directory.path, "new")
        shutil.rmtree(target)
        directory.commit()
    assert contents(tmp_path).keys() == {"x.mbundle"}
    assert (target / "data").read_text() == "new"


def test_something_that_comes_between_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an exchange the name is free for a moment: the old bundle and the new one both get names."""
    monkeypatch.setattr("mobile_bundle.files.rename._renameat2", lambda *_: errno.ENOSYS)
    target = bundle_at(tmp_path / "x.mbundle", "old")
    real = commit.rename_new

    def late(source, wanted):
        if (tmp_path / source.name / "data").read_text() == "new" and not target.exists():
            target.mkdir()
            (target / "thesis.txt").write_text("three years")
        real(source, wanted)

    monkeypatch.setattr(commit, "rename_new", late)
    with directory_at(target) as directory:
        bundle_at(directory.path, "new")
        with pytest.raises(OutputTaken):
            directory.commit()
    assert contents(target) == {"thesis.txt": "three years"}
    assert (tmp_path / "x.mbundle.old/data").read_text() == "old"
    assert (tmp_path / "x.mbundle.new/data").read_text() == "new"


def test_a_bundle_with_files_of_ones_own_is_refused_at_once(tmp_path: Path) -> None:
    target = bundle_at(tmp_path / "x.mbundle", "old")
    (target / "weights.cache").write_text("made by install")
    (target / ".weights.cache.partial-77-0").write_text("left by a killed install")
    with directory_at(target):
        pass
    (target / "notes").mkdir()
    (target / "notes/thesis.txt").write_text("three years")
    with (
        pytest.raises(UserError, match=r"holds notes/thesis\.txt, which is not part of the bundle"),
        directory_at(target),
    ):
        pass
    assert (target / "notes/thesis.txt").exists()


def test_the_folder_of_the_output_is_moved_or_replaced(tmp_path: Path) -> None:
    for again in (False, True):
        folder, moved = tmp_path / f"folder{again}", tmp_path / f"moved{again}"
        folder.mkdir()
        with directory_at(folder / "x.mbundle") as directory:
            bundle_at(directory.path, "new")
            folder.rename(moved)
            if again:
                folder.mkdir()
            with pytest.raises(OutputTaken, match=rf"moved or replaced meanwhile .* {moved}/x.mbundle.new"):
                directory.commit()
        assert (moved / "x.mbundle.new/data").read_text() == "new"
        assert [path.name for path in moved.iterdir()] == ["x.mbundle.new"]
        assert not again or list(folder.iterdir()) == []


def test_the_folder_of_the_output_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with directory_at(folder / "x.mbundle") as directory:
        shutil.rmtree(folder)
        with pytest.raises(UserError, match=r"cannot write .*x\.mbundle: No such file"):
            directory.commit()
    assert list(tmp_path.iterdir()) == []


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", APPEARING)
def test_what_appears_at_a_files_name_stays(tmp_path: Path, kind: str, first: bool) -> None:
    target = tmp_path / "report.html"
    output = OutputFile(target)
    if not first:
        output.write_text("one")
        output.write_text("two")
        assert target.read_text() == "two"
        target.unlink()
    APPEARING[kind](target)
    before = contents(target)
    with pytest.raises(OutputTaken, match=rf"report\.html .* meanwhile .* {tmp_path}/report\.html\.new: move it"):
        output.write_text("three")
    assert contents(target) == before
    assert (tmp_path / "report.html.new").read_text() == "three"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_is_changed_while_it_is_about_to_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "report.json"
    output = OutputFile(target)
    output.write_text("mine")
    real = commit.exchange

    def late(one, other):
        monkeypatch.setattr(commit, "exchange", real)
        target.write_text("edited")
        return real(one, other)

    monkeypatch.setattr(commit, "exchange", late)
    with pytest.raises(OutputTaken, match="was changed or replaced meanwhile"):
        output.write_text("new")
    assert target.read_text() == "edited"
    assert (tmp_path / "report.json.new").read_text() == "new"


def test_a_file_that_was_there_is_replaced_and_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").write_text("old")
    (tmp_path / "link").symlink_to("there/file")
    (tmp_path / "dangling").symlink_to("there/other")
    OutputFile(tmp_path / "link").write_text("new \ud800")
    OutputFile(tmp_path / "dangling").write_text("other")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "there") == {"file": "new ?", "other": "other"}


def test_what_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(UserError, match="cannot be written: it is not a file"):
            OutputFile(path)
    for path in (tmp_path / "missing/file", tmp_path / "pipe/file"):
        with pytest.raises(UserError, match="a file in a folder that exists and is yours"):
            OutputFile(path)
    assert Path("/dev/null").is_char_device()


# ---- folders for unfinished work -------------------------------------------------------------------------------------


def test_only_dead_processes_folders_are_removed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    bundle_at(precious, "mine")
    (tmp_path / ".x.partial-0123abcd").mkdir()
    (tmp_path / ".x.partial-0123abcd/weights.ptd").write_text("half")
    (tmp_path / ".x.partial-tmp_file").mkdir()  # as earlier versions of `pack` named them
    (tmp_path / ".x.partial-aaaaaaaa").symlink_to(precious)
    (tmp_path / ".x.partial-bbbbbbbb").write_text("a file")
    (tmp_path / ".x.partial-something else").mkdir()
    (tmp_path / ".y.partial-0123abcd").mkdir()
    stay = {
        "precious",
        ".x.partial-aaaaaaaa",
        ".x.partial-bbbbbbbb",
        ".x.partial-something else",
        ".y.partial-0123abcd",
    }
    with WorkFolder(tmp_path, "x") as one, WorkFolder(tmp_path, "x") as two:
        assert one.path.is_dir()
        assert set(os.listdir(tmp_path)) == {one.path.name, two.path.name, *stay}
    assert set(os.listdir(tmp_path)) == stay
    assert contents(precious) == contents(bundle_at(tmp_path / "same", "mine"))


def test_scratch_of_a_killed_process_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "from mobile_bundle.files.work_folder import scratch_folder\nimport os\nwith scratch_folder() as path:\n"
    script += "    (path / 'weights.ptd').write_text('x')\n    os.kill(os.getpid(), 9)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder() as path:
        assert list(tmp_path.iterdir()) == [path]
        assert path.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []


# ---- the commands ----------------------------------------------------------------------------------------------------


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)


def test_a_folder_that_appears_while_a_bundle_is_built(tmp_path: Path) -> None:
    out = tmp_path / "out.mbundle"
    command = [*BUILD, EXAMPLE, "-o", out, "--recipe", "raw", "--jobs", "1"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob(".out.mbundle.partial-*")):
        assert process.poll() is None
        time.sleep(0.002)
    out.mkdir()
    (out / "thesis.txt").write_text("three years")
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"build-mobile-bundle: {out} appeared meanwhile and was left alone; the finished result is")
    assert contents(out) == {"thesis.txt": "three years"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mbundle", "out.mbundle.new"]
    assert run(*TOOL, "verify", tmp_path / "out.mbundle.new").returncode == 0


@pytest.mark.slow
def test_pack_removes_what_killed_runs_left(bundle: Callable[..., Path], tmp_path: Path) -> None:
    command = [*TOOL, "pack", bundle("affine-4bit"), "-o", tmp_path / "x.mbundle.zip"]
    for count in (1, 2):
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not list(tmp_path.glob(".x.mbundle.zip.partial-*/weights.ptd.*")):
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
        process.wait()
        assert len(list(tmp_path.iterdir())) == 1, count
    with WorkFolder(tmp_path, "x.mbundle.zip") as living:
        assert run(*command).returncode == 0
        assert {path.name for path in tmp_path.iterdir()} == {"x.mbundle.zip", living.path.name}
    first = (tmp_path / "x.mbundle.zip").read_bytes()
    assert run(*command).returncode == 0
    assert (tmp_path / "x.mbundle.zip").read_bytes() == first


@pytest.mark.slow
def test_outputs_that_cannot_be(bundle: Callable[..., Path], tmp_path: Path) -> None:
    """A root, a device, the checkpoint itself, a file system that is read-only: one line, and nothing is touched."""
    room = tmp_path / "room"
    room.mkdir()
    before = {path.name: path.stat().st_mtime_ns for path in EXAMPLE.iterdir()}
    for command in (
        *([*BUILD, EXAMPLE, "-o", out] for out in ("/", "/dev/null", EXAMPLE, room / "x.mbundle")),
        *([*TOOL, "pack", bundle("affine-4bit"), "-o", out / "x.mbundle.zip"] for out in (Path("/dev/null"), room)),
    ):
        mount = f'mount -t tmpfs -o ro none {room} && exec "$@"'
        failed = run("unshare", "-m", "sh", "-c", mount, "sh", *command)
        if failed.stderr.startswith(("unshare:", "mount:")):
            pytest.skip("needs the right to mount")
        assert (failed.returncode, failed.stderr.count("\n")) == (1, 1), failed.stderr
    assert {path.name: path.stat().st_mtime_ns for path in EXAMPLE.iterdir()} == before
    assert Path("/dev/null").is_char_device()


@pytest.mark.slow
def test_two_builds_of_one_output(tmp_path: Path) -> None:
    out = tmp_path / "out.mbundle"
    command = list(map(str, [*BUILD, EXAMPLE, "-o", out, "--recipe", "affine-3bit", "--jobs", "1"]))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as first:
        while not list(tmp_path.glob("out.mbundle.parts/*.part.json")):
            assert first.poll() is None
            time.sleep(0.002)
        first.send_signal(signal.SIGSTOP)  # so that it cannot end before the second one
        second = run(*command)
        first.send_signal(signal.SIGCONT)
        errors = first.communicate(timeout=120)[1]
    assert first.returncode == 0, errors
    assert second.returncode == 1
    assert f"another build is writing {out}.parts" in second.stderr
    assert "may be deleted" not in second.stderr  # of what the first one still needs
    assert [path.name for path in tmp_path.iterdir()] == ["out.mbundle"]
    assert run(*TOOL, "verify", out).returncode == 0


@pytest.mark.slow
def test_outputs_that_would_overwrite_inputs(bundle: Callable[..., Path], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("What is measured.")
    packed = bundle("affine-4bit")
    for output in (text, packed / "manifest.json", EXAMPLE / "config.json"):
        before = output.read_bytes()
        command = ["report", packed, "--against", EXAMPLE, "--text", text, "-o", tmp_path / "r.html", "--json", output]
        failed = run(*TOOL, *command)
        assert failed.returncode == 1
        assert f"{output} is an input of this report and would be overwritten" in failed.stderr
        assert output.read_bytes() == before
    same = run(*TOOL, "device-test", packed, "--json", tmp_path / "x", "--html", tmp_path / "x")
    assert (same.returncode, same.stderr.count("\n")) == (1, 1)
    assert "is given twice" in same.stderr
