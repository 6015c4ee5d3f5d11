"""mobile-watch, natively and for arm under QEMU: every end of a command is told, and none leaves a process behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mobile_bundle.lab.cgroup import Cgroup
from mobile_bundle.native.library import package_file
from mobile_bundle.native.programs import ABIS
from support.events import event_of, events_of

pytestmark = pytest.mark.serial

EMULATORS = {
    "x86_64": [],
    "arm64-v8a": ["qemu-aarch64-static", "-cpu", "cortex-a53"],
    "armeabi-v7a": ["qemu-arm-static", "-cpu", "cortex-a7"],
}
MEMORY = 200_000_000


def program(abi: str = "x86_64") -> list[str]:
    emulator = EMULATORS[abi]
    if emulator and not shutil.which(emulator[0]):
        pytest.fail(f"{emulator[0]} is missing: install qemu-user-static")
    return [*emulator, str(package_file("bin", abi, "mobile-watch"))]


def watch(*arguments: str, abi: str = "x86_64", status: int = 0) -> list[dict[str, Any]]:
    done = subprocess.run(
        [*program(abi), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status, done.stdout + done.stderr
    return events_of(done.stdout)


def living(mark: str) -> list[int]:
    """Processes with `mark` on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def gone(mark: str, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while living(mark):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@contextlib.contextmanager
def running(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """mobile-watch once it has said "start"."""
    with subprocess.Popen([*program(), *arguments], stdout=subprocess.PIPE, text=True, **options) as process:
        try:
            assert process.stdout
            assert event_of(process.stdout.readline(), "mobile-watch")["event"] == "start"
            yield process
        finally:
            process.kill()


@pytest.fixture
def mark() -> str:
    """A number of seconds for sleep that no other process has on its command line."""
    return f"{300 + os.getpid() % 100}.{time.monotonic_ns() % 1_000_000_000:09d}"


@pytest.mark.parametrize("abi", ABIS)
@pytest.mark.parametrize(
    ("script", "end"), [("exit 0", ("status", 0)), ("exit 37", ("status", 37)), ("kill -SEGV $$", ("signal", 11))]
)
def test_the_end_of_a_command_is_told(abi, script, end):
    first, *_, last = watch("--", "sh", "-c", script, abi=abi)
    assert first["event"] == "start"
    assert first["pid"] > 0
    assert last["event"] == "exit"
    assert last[end[0]] == end[1]
    assert ("signal" in last) != ("status" in last)
    assert last["maxrss_bytes"] > 0
    assert last["timed_out"] is False
    assert last["core"] in (True, False)


@pytest.mark.parametrize("abi", ABIS)
def test_samples_are_whole_and_in_order(abi):
    _, *samples, last = watch("--interval", "20", "sleep", "0.5", abi=abi)
    samples = [sample for sample in samples if sample["event"] == "sample"]
    assert len(samples) >= 5
    times = [sample["t"] for sample in samples]
    assert times == sorted(times)
    sample = samples[-1]
    assert sample["hwm_bytes"] >= sample["rss_bytes"] > 0
    assert sample["rss_bytes"] >= sample["anon_bytes"] + sample["file_bytes"]
    assert sample["available_bytes"] > 0
    assert {"swap_bytes", "major_faults", "minor_faults", "utime", "stime", "swap_free_bytes", "pgmajfault"} <= set(
        sample
    )
    assert "refault_file" in sample
    assert ("psi_some_avg10" in sample) == Path("/proc/pressure/memory").exists()
    assert last["seconds"] >= 0.5


@pytest.mark.parametrize("abi", ABIS)
def test_peaks_of_samples_and_of_the_kernel_agree(abi):
    hog = [*program(abi), "hog", "--anon-bytes", str(MEMORY), "--hold", "0.5"]
    with subprocess.Popen([*program(abi), *hog], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        seen = events_of(process.stdout.read())
    last = seen[-1]
    assert last["status"] == 0
    assert last["hwm_bytes"] == pytest.approx(last["maxrss_bytes"], rel=0.02)
    assert last["maxrss_bytes"] > 0.99 * MEMORY  # the kernel counts pages per processor, and adds them up late
    assert max(e["anon_bytes"] for e in seen if e["event"] == "sample") >= MEMORY
    details = [event for event in seen if event["event"] == "detail"]
    assert details
    assert details[-1]["private_dirty_bytes"] > 0


@pytest.mark.parametrize("abi", ABIS)
def test_a_command_that_cannot_be_started_is_status_127_with_the_reason(abi, tmp_path):
    assert watch("no-such-program", abi=abi) == [
        {"event": "exit", "status": 127, "reason": "no-such-program: No such file or directory"}
    ]
    (event,) = watch("--stdout", str(tmp_path / "no/file"), "true", abi=abi)
    assert event["status"] == 127
    assert event["reason"].startswith("standard output: ")


@pytest.mark.parametrize("odd", [b"no\nsuch\x07", b"\xff\xfe\xc3", '"漢\\"'.encode() * 300, b"x" * 6000])
def test_names_of_any_bytes_stay_in_one_line_of_utf8(odd):
    done = subprocess.run([*program(), odd], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert done.returncode == 0
    (line,) = done.stdout.decode("utf-8").splitlines()
    reason = json.loads(line)["reason"]
    assert reason.isprintable()
    assert re.search("No such file|too long", reason)
    assert len(reason) <= 300
    refused = subprocess.run([*program(), b"--interval", odd], capture_output=True, timeout=60)
    assert refused.returncode == 2
    (line,) = refused.stderr.decode("utf-8").removesuffix("\n").split("\n")
    assert line.isprintable()
    assert len(line) < 450


def test_the_streams_go_where_they_are_sent(tmp_path):
    (tmp_path / "in").write_text("question")
    files = {name: str(tmp_path / name) for name in ("in", "out", "error")}
    watch("--stdin", files["in"], "--stdout", files["out"], "--stderr", files["error"],
          "sh", "-c", "cat; echo trouble >&2")  # fmt: skip
    assert (tmp_path / "out").read_text() == "question"
    assert (tmp_path / "error").read_text() == "trouble\n"
    done = subprocess.run([*program(), "cat"], input="a line", capture_output=True, text=True)
    assert done.stderr == "a line"  # standard output is for events alone
    assert [event["event"] for event in events_of(done.stdout)][-1] == "exit"


def test_a_timeout_ends_all_that_the_command_started(mark):
    began = time.monotonic()
    last = watch("--timeout", "0.3", "sh", "-c", f"sleep {mark} & sleep {mark}")[-1]
    assert last["timed_out"] is True
    assert last["signal"] == signal.SIGTERM
    assert time.monotonic() - began < 2
    assert gone(mark)


def test_a_command_that_ignores_term_is_killed(mark):
    last = watch("--timeout", "0.3", "sh", "-c", f"trap '' TERM; sleep {mark} & wait; wait")[-1]
    assert last["timed_out"] is True
    assert last["signal"] == signal.SIGKILL
    assert 2 < last["seconds"] < 5
    assert gone(mark)


def test_what_a_command_leaves_in_the_background_is_killed(mark):
    assert watch("sh", "-c", f"sleep {mark} & exit 3")[-1]["status"] == 3
    assert gone(mark)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_the_watcher_takes_the_command_with_it(number, mark):
    with running("sh", "-c", f"trap '' TERM HUP INT; sleep {mark} & sleep {mark}") as process:
        process.send_signal(number)
        assert process.wait(5) == 128 + number
        last = events_of(process.stdout.read())[-1]
    assert last["interrupted"] == number
    assert last["signal"] == signal.SIGKILL
    assert gone(mark)


def test_a_killed_watcher_takes_the_command_with_it(mark):
    with running("sleep", mark) as process:
        process.kill()
        process.wait()
        assert gone(mark)


def test_the_end_of_the_shell_that_adbd_hangs_up_on_is_the_end(mark):
    script = f"{' '.join(program())} sleep {mark}; true"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as shell:
        assert shell.stdout
        shell.stdout.readline()
        shell.send_signal(signal.SIGHUP)
        shell.wait()
        assert gone(mark)


def test_under_nohup_the_watch_outlives_the_shell(mark, tmp_path):
    script = f"nohup {' '.join(program())} sleep {mark} > {tmp_path}/events & sleep 0.3"
    subprocess.run(["sh", "-c", script], check=True, stderr=subprocess.DEVNULL)
    sleepers = [pid for pid in living(mark) if Path(f"/proc/{pid}/comm").read_text() == "sleep\n"]
    assert len(sleepers) == 1
    os.kill(sleepers[0], signal.SIGTERM)
    assert gone(mark)
    assert events_of((tmp_path / "events").read_text())[-1]["signal"] == signal.SIGTERM


def test_broken_output_does_not_end_the_command(tmp_path):
    with running("--interval", "10", "sh", "-c", f"sleep 0.3; echo done > {tmp_path}/file") as process:
        process.stdout.close()
        assert process.wait(10) == 1
    assert (tmp_path / "file").read_text() == "done\n"


def test_the_hog_holds_memory_that_cannot_be_compressed_until_its_input_closes():
    command = [*program(), "hog", "--anon-bytes", str(MEMORY)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hog:
        try:
            assert json.loads(hog.stdout.readline()) == {"event": "holding", "pid": hog.pid, "anon_bytes": MEMORY}
            status = Path(f"/proc/{hog.pid}/status").read_text()
            assert int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024 >= MEMORY
            maps = Path(f"/proc/{hog.pid}/maps").read_text()
            areas = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps.splitlines()]
            begin, end = max(areas, key=lambda area: area[1] - area[0])
            assert end - begin >= MEMORY
            with open(f"/proc/{hog.pid}/mem", "rb") as memory:
                for place in (begin, (begin + MEMORY // 2) & ~4095):
                    memory.seek(place)
                    assert len(zlib.compress(memory.read(4096))) > 4000
        finally:
            hog.stdin.close()
        assert hog.wait(5) == 0


def test_the_hog_lets_go_after_its_time():
    command = [*program(), "hog", "--anon-bytes", "1000000", "--hold", "0.2"]
    began = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as hog:
        assert hog.wait(5) == 0
    assert time.monotonic() - began >= 0.2


@pytest.mark.skipif(os.geteuid() != 0, reason="a memory cgroup needs root")
def test_a_command_killed_for_want_of_memory_is_told_as_signal_9():
    cgroup = Cgroup(f"mobile-bundle-test-{os.getpid()}", 64 << 20)
    try:
        command = [*program(), *program(), "hog", "--anon-bytes", str(MEMORY)]
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=cgroup.join, timeout=60)
    finally:
        cgroup.remove()
    assert done.returncode == 0  # the watcher is too small to be chosen
    last = events_of(done.stdout)[-1]
    assert last["signal"] == signal.SIGKILL
    assert 32 << 20 < last["maxrss_bytes"] <= 64 << 20


def test_dropping_caches_is_told():
    first = watch("--drop-caches", "true")[0]
    assert first["caches_dropped"] is os.access("/proc/sys/vm/drop_caches", os.W_OK)


@pytest.mark.parametrize(
    "arguments",
    [[], ["--interval", "0", "true"], ["--timeout", "x", "true"], ["--nonsense", "true"], ["--timeout"], ["hog"],
     ["hog", "--anon-bytes", "-1"], ["hog", "--anon-bytes", "1", "more"]],
)  # fmt: skip
def test_bad_usage_is_one_line_and_exit_code_2(arguments):
    done = subprocess.run([*program(), *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_watching_costs_next_to_nothing():
    """Processor time of the watcher itself at 20 samples a second, beside a command that does nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    watch("sleep", "3")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"mobile-watch took {seconds / 3:.2%} of one processor at 20 Hz")
    assert seconds / 3 < 0.01


@pytest.mark.full
@pytest.mark.parametrize("abi", ABIS)
def test_the_program_is_static_and_small(abi):
    data = package_file("bin", abi, "mobile-watch").read_bytes()
    assert len(data) < 100_000
    assert b"ld-linux" not in data
    assert b"ld-musl" not in data
