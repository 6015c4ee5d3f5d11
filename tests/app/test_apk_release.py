"""`make apk-release`: two builds of the package are the same bytes, and it has nothing of a debug build.

The builds are Maven's, in a folder of their own; a key is made for them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from support.paths import ROOT

pytestmark = pytest.mark.full

RELEASE = ROOT / "build/apk/mobile-bundle-demo-release.apk"
PASSWORD = "a password for this test"


def make(*arguments: str, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
    """The scripts behind the targets `apk-key` and `apk-release`."""
    environment = os.environ | {"APK_KEY_PASSWORD": password}
    return subprocess.run(
        [ROOT / "scripts/apk_release.sh", *arguments], capture_output=True, text=True, timeout=900, env=environment
    )


@pytest.fixture(scope="module")
def key(tmp_path_factory) -> Path:
    if not shutil.which("keytool"):
        pytest.skip("keytool is missing; `make apk` as root installs a JDK")
    path = tmp_path_factory.mktemp("key") / "release.p12"
    made = make("key", str(path))
    assert made.returncode == 0, made.stderr
    return path


def test_a_key_is_made_once(key):
    before = key.read_bytes()
    again = make("key", str(key))
    assert again.returncode == 1
    assert "is there already" in again.stderr
    assert key.read_bytes() == before
    assert key.stat().st_mode & 0o077 == 0, "nobody else can read it"


@pytest.mark.parametrize(
    ("arguments", "password", "says"),
    [
        (("build", ""), PASSWORD, "KEY is missing"),
        (("build", "/nonexistent/release.p12"), PASSWORD, "there is no key"),
        (("key", "new.p12"), "", "APK_KEY_PASSWORD"),
        (("key", "new.p12"), "short", "APK_KEY_PASSWORD"),
    ],
)
def test_what_is_missing_is_said_in_one_line(arguments, password, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = make(*arguments, password=password)
    assert refused.returncode == 2
    assert says in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_builds_are_the_same_bytes_and_the_package_is_as_promised(key):
    if not shutil.which("mvn") or not (ROOT / "build/apk/jniLibs").is_dir():
        pytest.skip("Maven or the runners are missing; run make apk")
    packages = []
    for _ in range(2):
        built = make("build", str(key))
        assert built.returncode == 0, built.stdout + built.stderr
        packages.append(RELEASE.read_bytes())
        shutil.rmtree(ROOT / "build/apk/maven/release")
    # RSA signatures are the same, too: with another key only they would differ.
    assert packages[0] == packages[1]
    assert len(packages[0]) <= 1_500_000

    def output(program: str, *arguments: object) -> str:
        return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=True).stdout

    assert "Verifies" in output("apksigner", "verify", "--verbose", "--min-sdk-version", 26, RELEASE)
    badging = output("aapt2", "dump", "badging", RELEASE)
    assert "uses-permission" not in badging
    assert "application-debuggable" not in badging
    tree = output("aapt2", "dump", "xmltree", "--file", "AndroidManifest.xml", RELEASE)
    assert "AutomationActivity" not in tree
    assert re.search(r"debuggable\(.*\)=false", tree)
    with zipfile.ZipFile(RELEASE) as file:
        assert b"AutomationActivity" not in file.read("classes.dex")
        assert {info.date_time[0] for info in file.infolist() if not info.filename.startswith("META-INF/")} == {1980}
