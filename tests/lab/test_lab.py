"""The stand-in devices: what adb sees of them, their memory, and that nothing of them is left, however they end."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mobile_bundle import lab
from mobile_bundle.errors import UserError
from mobile_bundle.lab.cache import cached
from mobile_bundle.lab.cgroup import Cgroup, Hierarchy, memory_hierarchy
from mobile_bundle.lab.proc_files import available_bytes, meminfo, vmstat
from mobile_bundle.native.library import package_file

needs_lab = pytest.mark.skipif(lab.obstacle("native") is not None, reason=lab.obstacle("native") or "")
GIB = 1 << 30


pytestmark = [pytest.mark.usefixtures("adb_server"), pytest.mark.serial]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that devices are filled with."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "sub").mkdir()
    (folder / "sub/note").write_text("laid here beforehand\n")
    return folder


@pytest.fixture(scope="module")
def native(data: Path) -> Iterator[lab.LabDevice]:
    with lab.start("native", data_dir=data) as device:
        adb(device, "push", str(package_file("bin", device.abi, "mobile-watch")), "/data/local/tmp/")
        yield device


@pytest.fixture(scope="module")
def arm64(data: Path) -> Iterator[lab.LabDevice]:
    with lab.start("arm64", data_dir=data) as device:
        adb(device, "push", str(package_file("bin", device.abi, "mobile-watch")), "/data/local/tmp/")
        yield device


@pytest.fixture(params=["native", pytest.param("arm64", marks=pytest.mark.slow)])
def device(request: pytest.FixtureRequest) -> lab.LabDevice:
    """Each of the two kinds of device, started once."""
    if why := lab.obstacle(request.param):
        pytest.skip(why)
    started: lab.LabDevice = request.getfixturevalue(request.param)
    return started


def adb(device: lab.LabDevice, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["adb", "-s", device.serial, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )


def shell(device: lab.LabDevice, command: str) -> str:
    done = adb(device, "shell", command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def memory_line(device: lab.LabDevice, name: str) -> int:
    """A line of /proc/meminfo in bytes."""
    match = re.search(rf"^{name}:\s+(\d+) kB$", shell(device, "cat /proc/meminfo"), re.MULTILINE)
    assert match
    return int(match[1]) * 1024


def settled(device: lab.LabDevice, name: str, holds: Callable[[int], bool]) -> int:
    """The line of /proc/meminfo once `holds` is true of it: an emulated kernel counts pages back in its own time.

    After 20 s whatever it is then, for an assertion to judge.
    """
    end = time.monotonic() + 20
    while not holds(value := memory_line(device, name)) and time.monotonic() < end:
        time.sleep(0.2)
    return value


@contextlib.contextmanager
def hog(device: lab.LabDevice, size: int) -> Iterator[None]:
    """A second process in the device that holds memory."""
    command = ["adb", "-s", device.serial, "shell", f"/data/local/tmp/mobile-watch hog --anon-bytes {size}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert '"holding"' in process.stdout.readline()
        yield
        process.stdin.close()


def traces(work: Path, cgroup: Path | None = None, serial: str = "") -> list[str]:
    """What is left of labs whose disks were in `work`."""
    left = [str(path) for path in work.glob("*")]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(work) in text and int(path.parent.name) != os.getpid():
                left.append(text)
    left += [line for line in Path("/proc/mounts").read_text().splitlines() if str(work) in line]
    left += [str(path) for path in Path("/sys/block").glob("loop*/loop/backing_file") if str(work) in path.read_text()]
    if cgroup and cgroup.exists():
        left.append(str(cgroup))
    if serial:
        listed = subprocess.run(["adb", "devices"], capture_output=True, text=True).stdout
        left += [line for line in listed.splitlines() if serial in line]
    return left


def cgroup_of(work: Path) -> Path:
    """The cgroup of the one native lab whose disk is in `work`."""
    (folder,) = work.glob("mobile-bundle-lab-*")
    return memory_hierarchy().path / folder.name


def wait_for_nothing(work: Path, cgroup: Path | None = None, serial: str = "") -> None:
    end = time.monotonic() + 15
    while left := traces(work, cgroup, serial):
        assert time.monotonic() < end, left
        time.sleep(0.05)


@contextlib.contextmanager
def owner(name: str, work: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another Python that has started a lab, and the lab's serial."""
    program = (
        "import sys, time; from pathlib import Path; from mobile_bundle import lab\n"
        "with lab.start(sys.argv[1], work=Path(sys.argv[2])) as device:\n"
        "    print(device.serial, flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, name, str(work)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            serial = process.stdout.readline().strip()
            assert serial
            yield process, serial
        finally:
            process.kill()


def test_a_shell_gives_exit_codes_and_both_streams(device):
    done = adb(device, "shell", "echo out; echo err >&2; exit 37")
    assert (done.returncode, done.stdout, done.stderr) == (37, "out\n", "err\n")
    assert adb(device, "shell", "true").returncode == 0
    assert adb(device, "shell", "kill -9 $$").returncode == 137
    assert adb(device, "shell", "no-such-program").returncode == 127
    assert shell(device, "id -u") == "0\n"


def test_it_says_what_it_is(device):
    machine = shell(device, "uname -m").strip()
    if device.name == "native":
        assert device.label == f"native lab: {machine} at host speed, not a phone"
    else:
        assert (machine, device.abi) == ("aarch64", "arm64-v8a")
        assert device.label == "arm64 lab: emulated Cortex-A53, its speed is not a phone's"
        assert "asimddp" not in shell(device, "cat /proc/cpuinfo")


def test_files_go_in_and_come_out_unchanged(device, tmp_path):
    (tmp_path / "in").write_bytes(os.urandom(3_000_001))
    assert adb(device, "push", str(tmp_path / "in"), "/data/local/tmp/file").returncode == 0
    digest = hashlib.sha256((tmp_path / "in").read_bytes()).hexdigest()
    assert shell(device, "sha256sum /data/local/tmp/file").split()[0] == digest
    assert adb(device, "pull", "/data/local/tmp/file", str(tmp_path / "out")).returncode == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()


def test_it_is_filled_beforehand_and_data_lies_on_a_disk(device):
    assert shell(device, "cat /data/local/tmp/sub/note") == "laid here beforehand\n"
    mounts = dict(line.split()[1:3] for line in shell(device, "cat /proc/mounts").splitlines())
    assert mounts["/data"] not in ("tmpfs", "rootfs", "overlay")


def test_its_memory_is_two_gibibytes_without_swap(device):
    assert memory_line(device, "MemTotal") == pytest.approx(2 * GIB, rel=0.05)
    assert memory_line(device, "SwapTotal") == 0
    assert memory_line(device, "MemAvailable") > 1.8 * GIB


def test_memory_taken_shows_and_comes_back(device):
    free = memory_line(device, "MemAvailable")
    nearly_all, little = 0.95 * GIB, GIB / 20
    with hog(device, GIB):
        taken = free - settled(device, "MemAvailable", lambda left: free - left > nearly_all)
        assert taken == pytest.approx(GIB, rel=0.05)
    assert free - settled(device, "MemAvailable", lambda left: free - left < little) < little


def test_a_process_too_large_is_killed_and_adbd_lives_on(device):
    before = shell(device, "pidof adbd")
    assert adb(device, "shell", "/data/local/tmp/mobile-watch hog --anon-bytes 2500000000").returncode == 137
    assert shell(device, "pidof adbd") == before


def test_the_cache_can_be_dropped_and_counts_as_available(device):
    shell(device, "dd if=/dev/zero of=/data/local/tmp/big bs=1M count=200 2>/dev/null")
    assert settled(device, "Cached", lambda cached: cached > 150e6) > 150e6
    assert settled(device, "MemAvailable", lambda left: left > 1.8 * GIB) > 1.8 * GIB
    shell(device, "sync; echo 3 > /proc/sys/vm/drop_caches; rm /data/local/tmp/big")
    assert settled(device, "Cached", lambda cached: cached < 50e6) < 50e6


def test_only_the_loopback_interface_listens(device):
    port = device.serial.split(":")[1]
    seen = subprocess.run(["ss", "-Hlnt"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[3] for line in seen if line.split()[3].endswith(f":{port}")] == [device.serial]
    others = subprocess.run(["ss", "-Hlnp", "--vsock"], capture_output=True, text=True).stdout
    assert "adbd" not in others
    interfaces = re.findall(r"(\w+):", shell(device, "cat /proc/net/dev"))
    assert interfaces == (["lo"] if device.name == "native" else ["lo", "eth0"])


@needs_lab
def test_the_host_is_not_changed_from_within(native):
    assert adb(native, "shell", "echo 1 > /proc/sys/vm/swappiness").returncode != 0
    assert adb(native, "shell", "touch /usr/file").returncode != 0
    assert shell(native, "ls /mnt") == ""
    assert Path("/proc/sys/kernel/hostname").read_text() != shell(native, "hostname")


@needs_lab
def test_the_native_device_has_its_own_pressure_or_none(native):
    present = adb(native, "shell", "cat /proc/pressure/memory").returncode == 0
    assert present == (memory_hierarchy().version == 2)


@needs_lab
def test_two_at_once_have_their_own_ports_memory_and_files(native, tmp_path):
    with lab.start("native", memory_bytes=GIB, work=tmp_path) as second:
        assert second.serial != native.serial
        assert memory_line(second, "MemTotal") == GIB
        shell(native, "echo first > /data/local/tmp/who")
        shell(second, "echo second > /data/local/tmp/who")
        assert shell(native, "cat /data/local/tmp/who") == "first\n"
        assert len(shell(second, "ps").splitlines()) < 10


@needs_lab
def test_a_port_that_is_taken_is_left_alone(native, tmp_path):
    with contextlib.ExitStack() as stack:
        taken = set()
        for port in range(5600, 5610):
            listener = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                listener.bind(("127.0.0.1", port))
                listener.listen()
                taken.add(f"127.0.0.1:{port}")
        device = stack.enter_context(lab.start("native", work=tmp_path))
        assert device.serial not in taken
        assert shell(device, "echo here") == "here\n"


@needs_lab
def test_nothing_is_left_after_the_context(tmp_path):
    with lab.start("native", work=tmp_path) as device:
        cgroup = cgroup_of(tmp_path)
        assert cgroup.exists()
        assert len(traces(tmp_path, cgroup, device.serial)) > 3
        shell(device, "nohup sleep 500 >/dev/null 2>&1 &")
    assert traces(tmp_path, cgroup, device.serial) == []
    with pytest.raises(UserError):
        device.kill()


@needs_lab
def test_nothing_is_left_after_an_exception(tmp_path):
    def fail() -> None:
        with lab.start("native", work=tmp_path):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert traces(tmp_path) == []


@needs_lab
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_the_owner_is_killed(number, tmp_path):
    with owner("native", tmp_path) as (process, serial):
        cgroup = cgroup_of(tmp_path)
        process.send_signal(number)
        process.wait()
        wait_for_nothing(tmp_path, cgroup, serial)


@needs_lab
def test_what_a_killed_supervisor_leaves_is_swept_by_the_next_lab(tmp_path):
    with owner("native", tmp_path) as (process, serial):
        cgroup = cgroup_of(tmp_path)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (supervisor,) = (int(child) for child in children)
        os.kill(supervisor, signal.SIGKILL)
        end = time.monotonic() + 10
        while (cgroup / "cgroup.procs").read_text() and time.monotonic() < end:
            time.sleep(0.02)
        assert (cgroup / "cgroup.procs").read_text() == ""
    subprocess.run(["adb", "disconnect", serial], stdout=subprocess.DEVNULL)
    with lab.start("native", work=tmp_path):
        assert not cgroup.exists()
    assert traces(tmp_path, cgroup) == []


@needs_lab
def test_killing_adbd_leaves_the_rest_alive_and_the_plug_ends_it(tmp_path):
    with lab.start("native", work=tmp_path) as device:
        shell(device, "nohup sleep 500 >/dev/null 2>&1 & sleep 0.2")
        before = len((cgroup_of(tmp_path) / "cgroup.procs").read_text().split())
        device.kill_adbd()
        assert adb(device, "shell", "echo here").returncode != 0
        assert len((cgroup_of(tmp_path) / "cgroup.procs").read_text().split()) == before - 1
        device.kill()
        assert (cgroup_of(tmp_path) / "cgroup.procs").read_text() == ""
        device.kill()  # once more does no harm
    assert traces(tmp_path, None, device.serial) == []


@needs_lab
def test_the_command_runs_until_interrupted():
    command = [sys.executable, "-m", "mobile_bundle.cli.main", "lab", "native", "--memory", "1GiB"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        serial, label = process.stdout.readline().strip().split("  ")
        seen = subprocess.run(["adb", "-s", serial, "shell", "echo here"], capture_output=True, text=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert seen.stdout == "here\n"
    assert label.startswith("native lab: ")
    assert serial not in subprocess.run(["adb", "devices"], capture_output=True, text=True).stdout


@needs_lab
@pytest.mark.slow
def test_two_virtual_machines_at_once_one_of_them_with_dot_products(arm64, tmp_path):
    with lab.start("arm64-dotprod", memory_bytes=GIB, work=tmp_path) as second:
        assert second.serial != arm64.serial
        assert second.label == "arm64 lab: emulated Cortex-A76, its speed is not a phone's"
        assert "asimddp" in shell(second, "cat /proc/cpuinfo")
        assert memory_line(second, "MemTotal") == pytest.approx(GIB, rel=0.1)
        assert shell(arm64, "echo here") == "here\n"
        second.kill_adbd()
        assert adb(second, "shell", "echo here").returncode != 0
        assert len(traces(tmp_path)) == 3  # the machine, its supervisor and its folder
        second.kill()
        assert len(traces(tmp_path)) == 2
    assert traces(tmp_path, None, second.serial) == []


@needs_lab
@pytest.mark.slow
def test_no_virtual_machine_is_left_when_the_owner_is_killed(tmp_path):
    with owner("arm64", tmp_path) as (process, serial):
        process.kill()
        process.wait()
        wait_for_nothing(tmp_path, None, serial)


def test_what_cannot_be_started_is_refused_in_one_line(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="known: native, arm64, arm64-dotprod"), lab.start("pixel"):
        pass
    with pytest.raises(UserError, match="data does not exist"), lab.start("native", data_dir=tmp_path / "none"):
        pass
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match="needs root"), lab.start("native"):
        pass


def test_a_system_is_built_once_and_whole_or_not_at_all(monkeypatch, tmp_path):
    monkeypatch.setenv("MOBILE_BUNDLE_LAB_CACHE", str(tmp_path / "cache"))
    built: list[Path] = []

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise UserError("no network")

    def build(folder: Path) -> None:
        built.append(folder)
        time.sleep(0.2)
        (folder / "file").touch()

    with pytest.raises(UserError):
        cached("thing", fail)
    results: list[Path] = []
    threads = [threading.Thread(target=lambda: results.append(cached("thing", build))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert len(set(results)) == 1
    assert [path.name for path in results[0].iterdir()] == ["file"]
    assert not list((tmp_path / "cache").glob(".thing-*"))


def fake_version_2(folder: Path, **values: int) -> Cgroup:
    """A cgroup of version 2 made of plain files."""
    cgroup = Cgroup("device", 2 * GIB, Hierarchy(2, folder))
    (cgroup.path / "memory.current").write_text(f"{values.pop('current')}\n")
    (cgroup.path / "memory.events").write_text("oom 3\noom_kill 2\n")
    (cgroup.path / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in values.items()))
    return cgroup


def test_a_cgroup_of_version_2_is_written_and_read_as_the_kernel_documents(tmp_path):
    """Its files only: the machine at hand decides which version the other tests run with."""
    cgroup = fake_version_2(tmp_path, current=700 << 20, anon=300 << 20, file=390 << 20, inactive_file=300 << 20,
                            active_file=90 << 20, slab_reclaimable=5 << 20, pgmajfault=7)  # fmt: skip
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"
    assert (cgroup.path / "memory.max").read_text() == str(2 * GIB)
    state = cgroup.memory()
    assert available_bytes(state) == 2 * GIB - (700 << 20) + (395 << 20)
    lines = dict(line.split(":") for line in meminfo(state).splitlines())
    assert lines["MemTotal"].split() == [str(2 * GIB // 1024), "kB"]
    assert lines["AnonPages"].split() == [str(300 << 10), "kB"]
    assert re.search(r"^pgmajfault\s+7$", vmstat(state), re.MULTILINE)
    assert re.search(r"^oom_kill\s+2$", vmstat(state), re.MULTILINE)


@pytest.mark.parametrize(
    ("mounts", "version"),
    [
        ("35 31 0:32 / {0} rw - cgroup cgroup rw,memory\n", 1),
        ("30 23 0:26 / {0} rw - cgroup2 cgroup2 rw,nsdelegate\n", 2),
        ("41 31 0:38 / {0}/none rw - cgroup2 cgroup2 rw\n35 31 0:32 / {0} rw - cgroup cgroup rw,memory\n", 1),
    ],
)
def test_the_memory_controller_is_found(mounts: Any, version, tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    assert memory_hierarchy(mounts.format(tmp_path)) == Hierarchy(version, tmp_path)
    with pytest.raises(UserError, match="memory cgroup"):
        memory_hierarchy("22 1 8:1 / / rw - ext4 /dev/root rw\n")
