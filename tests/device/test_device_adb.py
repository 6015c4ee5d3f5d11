"""The adb layer against a real adbd: exit codes, streams, files, and connections that break."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mobile_bundle import lab
from mobile_bundle.device.transport import adb, push
from mobile_bundle.device.transport.adb import Device
from mobile_bundle.device.transport.client import choose_serial, transport_error
from mobile_bundle.device.transport.errors import (
    DeviceGone,
    DeviceOffline,
    DeviceTimeout,
    NoSpace,
    ShellFailed,
    Unauthorized,
)
from mobile_bundle.device.transport.live import LiveProgram
from mobile_bundle.device.transport.probe import probe
from mobile_bundle.device.transport.push import push_changed
from mobile_bundle.errors import UserError

pytestmark = pytest.mark.serial

WORK = "/data/local/tmp/adb-test"


@pytest.fixture(scope="module")
def stand_in(native_lab) -> Iterator[lab.LabDevice]:
    with native_lab() as started:
        yield started


@pytest.fixture
def device(stand_in) -> Device:
    connected = Device(stand_in.serial)
    connected.connect()
    connected.shell(f"rm -rf {WORK}; mkdir -p {WORK}")
    return connected


def silent(done: int, total: int, what: str) -> None:
    assert 0 <= done <= total


def test_a_shell_has_exit_codes_and_two_streams(device):
    result = device.try_shell("echo out; echo err >&2; exit 37")
    assert (result.status, result.stdout, result.stderr) == (37, "out\n", "err\n")
    assert device.try_shell("kill -9 $$").status == 137
    assert device.try_shell("cat", data=b"a\0b\xff").stdout == "a\0b�"
    with pytest.raises(ShellFailed, match="status 3: why") as failed:
        device.shell("echo why >&2; exit 3")
    assert failed.value.status == 3


def test_a_silent_device_is_a_timeout(device):
    with pytest.raises(DeviceTimeout, match="did not end within 1 s"):
        device.try_shell("sleep 20", timeout=1)


def test_only_what_changed_is_pushed(device, tmp_path):
    files = {}
    for name, data in (("a", b"1" * 1000), ("b c", b"2" * 70_000), ("empty", b"")):
        (tmp_path / name).write_bytes(data)
        files[f"{WORK}/deep/{name}"] = tmp_path / name
    assert push_changed(device, files, silent) == 71_000
    assert push_changed(device, files, silent) == 0
    (tmp_path / "a").write_bytes(b"3" * 1000)
    assert push_changed(device, files, silent) == 1000
    assert device.shell(f"cat {WORK}/deep/a") == "3" * 1000
    assert device.shell(f"ls {WORK}/deep").split("\n")[:-1] == ["a", "b c", "empty"]
    device.shell(f"echo damaged > '{WORK}/deep/b c'")
    assert push_changed(device, files, silent) == 70_000
    device.pull_file(f"{WORK}/deep/b c", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"2" * 70_000


def test_an_interrupted_push_goes_on(device, tmp_path, monkeypatch):
    monkeypatch.setattr(push, "PART", 100_000)
    data = hashlib.shake_256(b"data").digest(950_000)
    (tmp_path / "large").write_bytes(data)
    files = {f"{WORK}/large": tmp_path / "large"}

    def interrupt(done: int, total: int, what: str) -> None:
        if done >= 400_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        push_changed(device, files, interrupt)
    assert device.try_shell(f"[ -e {WORK}/large ]").status == 1  # whole or not at all
    device.shell(f"echo half a part >> {WORK}/large.partial")
    assert push_changed(device, files, silent) == 550_000
    assert device.shell(f"sha256sum < {WORK}/large").split()[0] == hashlib.sha256(data).hexdigest()
    assert device.shell(f"ls {WORK}") == "large\n"


def test_what_differs_of_an_interrupted_push_is_sent_again(device, tmp_path, monkeypatch):
    monkeypatch.setattr(push, "PART", 1000)
    (tmp_path / "file").write_bytes(b"new" * 1000)
    device.shell(f"head -c 2000 /dev/zero > {WORK}/file.partial")
    assert push_changed(device, {f"{WORK}/file": tmp_path / "file"}, silent) == 3000


def test_a_full_disk_is_said_in_one_line(device, tmp_path):
    device.shell(f"mkdir {WORK}/small && mount -t tmpfs -o size=256k none {WORK}/small")
    try:
        (tmp_path / "large").write_bytes(b"x" * 1_000_000)
        with pytest.raises(NoSpace, match="no space left on the device"):
            push_changed(device, {f"{WORK}/small/large": tmp_path / "large"}, silent)
    finally:
        device.shell(f"umount {WORK}/small")


def test_an_adb_server_that_starts_again_is_no_error(device, tmp_path):
    subprocess.run(["adb", "kill-server"], check=True, capture_output=True)
    assert device.shell("echo still here") == "still here\n"
    (tmp_path / "file").write_bytes(b"data")
    subprocess.run(["adb", "kill-server"], check=True, capture_output=True)
    device.push_file(tmp_path / "file", f"{WORK}/file")
    assert device.shell(f"cat {WORK}/file") == "data"
    assert device.reconnections == 2


def test_a_live_program_is_read_and_answered(device):
    with LiveProgram(device, "echo ready; read line; echo got $line >&2; exit 5") as program:
        assert program.read_line(10) == ("out", "ready")
        program.send("word\n")
        heard: list[tuple[str, str]] = []
        assert program.follow(10, lambda stream, line: heard.append((stream, line))) == 5
        assert heard == [("err", "got word")]


def test_leaving_a_live_program_ends_it_on_the_device(device):
    sleeping = "ps -ef | grep -q '[s]leep 4321'"
    with LiveProgram(device, "exec sleep 4321") as program:
        with pytest.raises(DeviceTimeout):
            program.read_line(0.5)
        assert device.try_shell(sleeping).status == 0
    end = time.monotonic() + 5
    while device.try_shell(sleeping).status == 0 and time.monotonic() < end:
        time.sleep(0.1)
    assert device.try_shell(sleeping).status == 1


def test_the_probe_tells_what_the_device_is(device, stand_in):
    facts = probe(device, WORK)
    assert facts.abis == [stand_in.abi]
    assert facts.memory_bytes == stand_in.memory_bytes
    assert facts.root
    assert facts.android is None
    assert "not Android" in facts.label
    assert facts.cores >= 1
    assert facts.page_bytes in (4096, 16384, 65536)
    assert facts.free_bytes > 0
    assert facts.features
    with pytest.raises(ShellFailed, match="Read-only"):
        probe(device, "/usr/nowhere")


def test_the_only_device_is_chosen(stand_in, monkeypatch):
    assert choose_serial() == stand_in.serial
    monkeypatch.setenv("ANDROID_SERIAL", "other")
    assert choose_serial() == "other"


def test_a_device_that_is_not_there(adb_server, monkeypatch):
    monkeypatch.setattr(adb, "_PATIENCE", 1.0)
    with pytest.raises(DeviceGone, match="is gone"):
        Device("127.0.0.1:5599").connect()
    with pytest.raises(DeviceGone):
        Device("no-such-serial").try_shell("true")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="adb is missing"):
        choose_serial()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("error: device 'x' not found", DeviceGone),
        ("error: no devices/emulators found", DeviceGone),
        ("error: closed", DeviceGone),
        ("error: device offline", DeviceOffline),
        ("error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set", Unauthorized),
        ("adb: error: failed to get feature set: device offline", DeviceOffline),
        ("adb: error: failed to copy 'a' to 'b': remote write failed: No space left on device", NoSpace),
        ("adb: error: failed to copy 'a' to 'b': remote couldn't create file: Permission denied", type(None)),
        ("mobile-run: error: closed", type(None)),
        ("", type(None)),
    ],
)
def test_what_the_client_says(message, kind):
    error = transport_error("x", message)
    assert type(error) is kind
    if error is not None:
        assert len(str(error).splitlines()) == 1
        assert Path("x").name in str(error)
