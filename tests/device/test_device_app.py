"""The demo app over adb, on this side: what is asked and how the answer is found. A real adbd; `am`, `pm` and
`run-as`, which only Android has, are scripts that do what the hooks of the app promise. The app itself is tested by
`make apk-test`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mobile_bundle.device.measuring.app import ask_app, install_app
from mobile_bundle.device.transport.adb import Device, ShellResult
from mobile_bundle.device.transport.errors import DeviceTimeout, ShellFailed

pytestmark = pytest.mark.serial

WORK = "/data/local/tmp/android"
AM = """#!/bin/sh
# The text that it was asked comes back: it must have survived two shells.
while [ $# -gt 0 ]; do
  case $1 in --es|--ei) eval "$2=\\$3"; shift 3;; *) shift;; esac
done
case $bundle in
  missing) echo "Error type 3"; echo "Error: Activity class {dev.mobilebundle.demo} does not exist."; exit 0;;
  silent) exit 0;;
esac
file=/data/local/tmp/android/files/automation/$result.json
(sleep 0.6; printf '{"status": "done", "text": "%s", "tokens": %s}' "$prompt" "$max_new_tokens" >$file.part
mv $file.part $file) >/dev/null 2>&1 &
echo "Status: ok"
"""
PM = """#!/bin/sh
[ "$1 $2" = "install -r" ] && grep -q "no package" "$3" && echo "Failure [INSTALL_PARSE_FAILED_NOT_APK]" && exit 1
"""
RUN_AS = """#!/bin/sh
[ "$1" = dev.mobilebundle.demo ] && shift && cd /data/local/tmp/android && exec "$@"
"""


class Android(Device):
    """A stand-in whose shell finds those scripts."""

    def try_shell(self, script: str, timeout: float = 30, data: bytes | None = None) -> ShellResult:
        return super().try_shell(f"PATH={WORK}:$PATH; {script}", timeout, data)


@pytest.fixture(scope="module")
def device(native_lab) -> Iterator[Device]:
    with native_lab() as started:
        device = Android(started.serial)
        device.connect()
        device.shell(f"mkdir -p {WORK}/files/automation")
        for name, script in (("am", AM), ("pm", PM), ("run-as", RUN_AS)):
            device.shell(f"cat >{WORK}/{name} && chmod 755 {WORK}/{name}", data=script.encode())
        yield device


def test_it_waits_for_a_new_answer(device):
    for words in ("The city's old $HOME; `id` & more", "again"):
        answer = ask_app(device, "/data/local/tmp/x.mbundle.zip", words, 7)
        assert answer == {"status": "done", "text": words, "tokens": 7}


def test_an_app_that_is_not_there(device):
    with pytest.raises(ShellFailed, match="the app cannot be started: Error type 3"):
        ask_app(device, "missing", "x", 1)


def test_an_app_that_says_nothing(device):
    with pytest.raises(DeviceTimeout, match="wrote no result within 1 s"):
        ask_app(device, "silent", "x", 1, timeout=1)


def test_a_package_that_cannot_be_installed(device, tmp_path):
    apk = tmp_path / "x.apk"
    apk.write_bytes(b"no package")
    with pytest.raises(ShellFailed, match=r"status 1: Failure \[INSTALL_PARSE_FAILED_NOT_APK"):
        install_app(device, apk)
    assert device.shell("ls /data/local/tmp/*.apk 2>/dev/null; true") == ""
