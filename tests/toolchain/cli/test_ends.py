"""Commands that are asked to end, and disks that are full at every stage: one line, and nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
from mobile_bundle.files.output_file import OutputFile
from mobile_bundle.native.programs import runner_paths
from mobile_bundle.pipeline.parts import finished_parts
from support.paths import EXAMPLE

pytestmark = pytest.mark.serial

BUILD = [sys.executable, "-m", "mobile_bundle.cli.build"]
TOOL = [sys.executable, "-m", "mobile_bundle.cli.main"]


def started(command: list[object], temporary: Path, number: int) -> subprocess.Popen[str]:
    """With the signal as a terminal's shell leaves it."""
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        preexec_fn=lambda: signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        ),
    )


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A folder for the output, and one for temporary files."""
    for name in ("out", "tmp"):
        (tmp_path / name).mkdir()
    return tmp_path / "out", tmp_path / "tmp"


def end(process: subprocess.Popen[str], number: int, reached: Callable[[], object]) -> str:
    """Sends the signal once that stage is reached; the last line of what the command says."""
    while not reached():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(number)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "Traceback" not in errors
    return errors.strip().splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_build_that_is_asked_to_end(places: tuple[Path, Path], number: int) -> None:
    out, temporary = places
    process = started(
        [*BUILD, EXAMPLE, "-o", out / "x.mbundle", "--recipe", "vptq-2bit", "--jobs", "1"], temporary, number
    )
    parts = out / "x.mbundle.parts"
    line = end(process, number, lambda: finished_parts(parts))
    assert line.startswith("build-mobile-bundle: interrupted; ")
    assert line.endswith(f"finished tensors are kept in {parts}: the same command continues from there")
    assert [path.name for path in out.iterdir()] == ["x.mbundle.parts"]
    assert not list(parts.glob("*.tmp"))


def test_a_pack_that_is_asked_to_end(bundle: Callable[..., Path], places: tuple[Path, Path]) -> None:
    out, temporary = places
    process = started([*TOOL, "pack", bundle("affine-4bit"), "-o", out / "x.mbundle.zip"], temporary, signal.SIGTERM)
    assert end(process, signal.SIGTERM, lambda: list(out.iterdir())) == "mobile-bundle: interrupted"
    assert list(out.iterdir()) == list(temporary.iterdir()) == []


def test_a_report_that_is_asked_to_end(bundle: Callable[..., Path], places: tuple[Path, Path]) -> None:
    out, temporary = places
    text = out.parent / "text.txt"
    text.write_text("The river is long. " * 2000)
    command = [*TOOL, "report", bundle("affine-4bit"), "--against", EXAMPLE, "--text", text, "-o", out / "r.html"]
    process = started(command, temporary, signal.SIGTERM)
    assert end(process, signal.SIGTERM, lambda: list(temporary.iterdir())) == "mobile-bundle: interrupted"
    assert list(out.iterdir()) == list(temporary.iterdir()) == []


def test_an_ignored_signal_stays_ignored(places: tuple[Path, Path]) -> None:
    """nohup."""
    out = places[0]
    process = subprocess.Popen(
        list(map(str, [*BUILD, EXAMPLE, "-o", out / "x.mbundle", "--recipe", "raw"])),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    while not list(out.iterdir()):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=120)
    assert process.returncode == 0


def cleans_up(frame: FrameType | None) -> bool:
    """Whether a folder is just being removed: a second signal there may leave something."""
    while frame is not None:
        if frame.f_code.co_name in ("close", "__exit__", "__del__", "remove_tree"):
            return True
        frame = frame.f_back
    return False


def test_an_end_at_any_line_of_an_output(tmp_path: Path) -> None:
    """A signal may arrive between any two steps: the folder for unfinished work is removed wherever that is."""
    path = tmp_path / "out" / "x"
    path.parent.mkdir()

    def interrupted_at(line: int) -> bool:
        """Writes the file, but for a Ctrl-C at that line of the code that makes and removes the folder."""
        lines = 0

        def trace(frame: FrameType, event: str, _: object) -> Callable[..., object] | None:
            nonlocal lines
            if "mobile_bundle/files/" not in frame.f_code.co_filename or cleans_up(frame):
                return None
            if event == "line":
                lines += 1
                if lines == line:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            OutputFile(path).write(b"data")
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    line = 1
    while interrupted_at(line):
        assert [found.name for found in path.parent.iterdir()] in ([], ["x"]), line
        path.unlink(missing_ok=True)
        line += 1
    assert line > 30
    assert path.read_bytes() == b"data"


# ---- full disks ------------------------------------------------------------------------------------------------------


def in_room(room: Path, kilobytes: int, command: list[object], **environment: str) -> tuple[int, list[str], list[str]]:
    """Runs a command that sees another, empty file system of that size at `room`: its status, the lines that are not
    progress, and the names that are there afterwards. Skips where that is not allowed."""
    room.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o size={kilobytes}k none {room}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    script = f'{mount} && {{ "$@"; status=$?; ls -A {room}; exit $status; }}'
    process = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )
    assert "Traceback" not in process.stderr
    lines = [line for line in process.stderr.splitlines() if not line.endswith(" %")]
    return process.returncode, lines, process.stdout.split()


ALL_BUT_THE_END = 6380 + sum(path.stat().st_size for path in runner_paths().values()) // 1000
"""Kilobytes for the runners, the tokenizer and every coded tensor, not for all of them together once more."""


@pytest.mark.parametrize("kilobytes", [40, 900, 1500, ALL_BUT_THE_END])
def test_a_build_on_a_full_disk(tmp_path: Path, kilobytes: int) -> None:
    """In the tokenizer, in the runners, before any work, and when all tensors are coded."""
    room = tmp_path / "room"
    command = [*BUILD, EXAMPLE, "-o", room / "x.mbundle", "--recipe", "affine-4bit", "--jobs", "1"]
    status, lines, left = in_room(room, kilobytes, command)
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith(f"build-mobile-bundle: no room for {room}/")
    assert left == (["x.mbundle.parts"] if kilobytes == ALL_BUT_THE_END else [])


@pytest.mark.parametrize("kilobytes", [40, 1000, 3000])
def test_a_pack_on_a_full_disk(bundle: Callable[..., Path], tmp_path: Path, kilobytes: int) -> None:
    room = tmp_path / "room"
    status, lines, left = in_room(room, kilobytes, [*TOOL, "pack", bundle("affine-4bit"), "-o", room / "x.mbundle.zip"])
    assert (status, len(lines), left) == (1, 1, [])
    assert lines[0].startswith(f"mobile-bundle: no room for {room}/")


@pytest.mark.parametrize("kilobytes", [8, 32])
def test_a_report_on_a_full_disk(bundle: Callable[..., Path], tmp_path: Path, kilobytes: int) -> None:
    """What was measured until then is kept, whole."""
    room, text = tmp_path / "room", tmp_path / "text.txt"
    text.write_text("The river is long. " * 200)
    command = [*TOOL, "report", bundle("affine-4bit"), "--against", EXAMPLE, "--text", text, "-o", room / "r.html"]
    status, lines, left = in_room(room, kilobytes, [*command, "--context", "128", "--windows", "1"])
    assert (status, left) == (1, ["r.json"])
    assert lines[-1].startswith(f"mobile-bundle: no room for {room}/")


@pytest.mark.parametrize("kilobytes", [8, 3000])
def test_no_room_for_temporary_files(tmp_path: Path, kilobytes: int) -> None:
    """Calibration maps a file of them; without room for it the process would end by SIGBUS."""
    room, out = tmp_path / "room", tmp_path / "x.mbundle"
    command = [*BUILD, EXAMPLE, "-o", out, "--max-size", "4MB", "--jobs", "1"]
    status, lines, left = in_room(room, kilobytes, command, TMPDIR=str(room))
    assert (status, left) == (1, [])
    assert lines[-1].startswith(f"build-mobile-bundle: no room for {room}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["room"]
