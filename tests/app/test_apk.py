"""The Android app's package: what the installer reads of it, its signature, its code, and the runners in it.

`make apk-test`, which `make test` runs before, builds it and tests the app itself."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from mobile_bundle import lab
from support.paths import ROOT

pytestmark = pytest.mark.full

APK = ROOT / "build/apk/mobile-bundle-demo.apk"
PACKED = ROOT / "build/apk/wiki-6m.mbundle.zip"
PROGRAMS = {"arm64-v8a": "qemu-aarch64-static", "armeabi-v7a": "qemu-arm-static", "x86_64": ""}
"""What runs each ABI's program here."""
MACHINES = {"arm64-v8a": 183, "armeabi-v7a": 40, "x86_64": 62}
PAGE = 16384
PT_LOAD, PT_INTERP = 1, 3


@pytest.fixture(scope="module")
def apk() -> Path:
    if not APK.exists():
        pytest.fail("there is no APK: run make apk")
    return APK


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    if not shutil.which(program):
        pytest.skip(f"{program} is missing; `make apk` as root installs it")
    # dexdump prints strings as a dex file holds them, and that is not quite UTF-8.
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, errors="backslashreplace", timeout=120
    )


def output(program: str, *arguments: object) -> str:
    process = run(program, *arguments)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_what_the_installer_reads(apk):
    badging = output("aapt2", "dump", "badging", apk)
    assert "package: name='dev.mobilebundle.demo' versionCode='1' versionName='0.1.0'" in badging
    assert "sdkVersion:'26'" in badging
    assert "targetSdkVersion:'36'" in badging
    assert "native-code: 'arm64-v8a' 'armeabi-v7a' 'x86_64'" in badging
    assert "launchable-activity: name='dev.mobilebundle.demo.ui.ModelsActivity'" in badging
    assert "application-label-sw:" in badging
    # It asks for nothing: no internet, no storage.
    assert "uses-permission" not in badging
    assert "uses-permission" not in output("aapt2", "dump", "xmltree", "--file", "AndroidManifest.xml", apk)


def test_only_the_launcher_and_the_hooks_can_be_started_by_others(apk):
    tree = output("aapt2", "dump", "xmltree", "--file", "AndroidManifest.xml", apk)
    assert re.search(r"extractNativeLibs\(.*\)=true", tree)
    exported = [
        re.search(r'name\(.*?\)="(.*?)"', activity)[1].rpartition(".")[2]
        for activity in tree.split("E: activity")[1:]
        if re.search(r"exported\(.*?\)=true", activity)
    ]
    assert exported == ["ModelsActivity", "AutomationActivity"]
    # Review fault 5: adb's shell holds this permission, and no app can.
    hooks = tree.split("E: activity")[-1]
    assert "AutomationActivity" in hooks
    assert re.search(r'permission\(.*?\)="android.permission.DUMP"', hooks)


def test_nothing_goes_into_a_backup(apk):
    tree = output("aapt2", "dump", "xmltree", "--file", "AndroidManifest.xml", apk)
    assert re.search(r"allowBackup\(.*\)=false", tree)
    assert re.search(r"dataExtractionRules\(", tree)


def test_it_is_small_and_carries_no_model(apk):
    assert apk.stat().st_size <= 1_500_000
    with zipfile.ZipFile(apk) as file:
        assert file.testzip() is None
        names = file.namelist()
    commonmark = {"org/commonmark/internal/util/entities.txt", "org/commonmark/LICENSE.txt"}
    expected = {"AndroidManifest.xml", "classes.dex", "resources.arsc", *commonmark, *map(library, PROGRAMS)}
    assert expected == {name for name in names if not name.startswith(("res/", "META-INF/"))}


def test_signature(apk, tmp_path):
    verified = output("apksigner", "verify", "--verbose", "--min-sdk-version", 26, apk)
    assert "Verified using v2 scheme (APK Signature Scheme v2): true" in verified
    data = bytearray(apk.read_bytes())
    with zipfile.ZipFile(apk) as file:
        data[file.getinfo("classes.dex").header_offset + 200] ^= 1
    changed = tmp_path / "changed.apk"
    changed.write_bytes(data)
    assert run("apksigner", "verify", "--min-sdk-version", 26, changed).returncode != 0


def test_alignment(apk):
    output("zipalign", "-c", "-p", 4, apk)


def test_dex(apk, tmp_path):
    with zipfile.ZipFile(apk) as file:
        path = Path(file.extract("classes.dex", tmp_path))
    data = path.read_bytes()
    assert re.match(rb"dex\n03[5-8]\0", data), "a version that Android 8 reads"
    checksum, signature, size = struct.unpack_from("<I20sI", data, 8)
    assert size == len(data)
    assert checksum == zlib.adler32(data[12:])
    assert signature == hashlib.sha1(data[32:]).digest()
    output("dexdump", "-c", path)
    listing = output("dexdump", "-d", path)
    assert listing.count("|[") > 300, "methods were disassembled"
    # Android 8.0 does not have it, so nothing of Kotlin's lambdas may be left in that form.
    assert "invoke-custom" not in listing
    # Nor these of Java 9, which commonmark calls: R8 puts its own in their place.
    assert not re.search(r"Ljava/util/(List|Set);\.of:", listing)
    # Called by Android 15 alone: R8, which does not know it, must have left it its name.
    assert re.search(r"name\s*: 'onTimeout'\s+type\s*: '\(II\)V'", listing)
    classes = set(re.findall(r"Class descriptor\s*: 'L([^;]+);'", listing))
    manifest = (ROOT / "android_demo/app/src/main/AndroidManifest.xml").read_text()
    named = re.findall(r'android:name="(dev\.mobilebundle\.[\w.]+)"', manifest)
    assert len(named) == 7
    assert {name.replace(".", "/") for name in named} <= classes


@pytest.mark.slow
def test_only_the_flavour_online_asks_for_permissions():
    if not shutil.which("mvn"):
        pytest.skip("Maven is missing; run make apk")
    output("mvn", "--batch-mode", "--quiet", "-f", ROOT / "android_demo/pom.xml", "generate-sources", "-Ponline")
    resources = ROOT / "build/apk/maven/debug-online/apk/resources.ap_"
    asked = re.findall(
        r"uses-permission: name='android\.permission\.(\w+)'", output("aapt2", "dump", "permissions", resources)
    )
    assert sorted(asked) == ["FOREGROUND_SERVICE", "FOREGROUND_SERVICE_DATA_SYNC", "INTERNET"]
    tree = output("aapt2", "dump", "xmltree", "--file", "AndroidManifest.xml", resources)
    assert 'name(0x01010003)="dev.mobilebundle.demo.WorkService"' in tree
    assert re.search(r"foregroundServiceType\(.*\)=0x0*1\b", tree)
    # And the hooks of the debug build are still there: the two are put together.
    assert "AutomationActivity" in tree


def strings(folder: str) -> dict[str, list[str]]:
    """Every text of a language: its placeholders."""
    path = ROOT / f"android_demo/app/src/main/res/{folder}/strings.xml"
    return {
        item.attrib["name"]: sorted(re.findall(r"%\d\$[sd]|%%", item.text or ""))
        for item in ElementTree.parse(path).getroot()
        if item.get("translatable") != "false"
    }


def test_every_text_is_in_swahili_too():
    assert len(strings("values")) > 90
    assert strings("values-sw") == strings("values")


def library(abi: str) -> str:
    return f"lib/{abi}/libmobile_run.so"


def program(apk: Path, abi: str, directory: Path) -> Path:
    """The runner, taken out of the APK."""
    with zipfile.ZipFile(apk) as file:
        path = Path(file.extract(library(abi), directory))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("abi", PROGRAMS)
def test_programs_are_static_and_fit_pages_of_16_kb(apk, tmp_path, abi):
    data = program(apk, abi, tmp_path).read_bytes()
    wide = data[4] == 2
    assert data[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", data, 18)[0] == MACHINES[abi]
    table = struct.unpack_from("<Q" if wide else "<I", data, 32 if wide else 28)[0]
    entry_bytes, entries = struct.unpack_from("<HH", data, 54 if wide else 42)
    kinds = []
    for at in range(table, table + entries * entry_bytes, entry_bytes):
        kinds.append(struct.unpack_from("<I", data, at)[0])
        if kinds[-1] == PT_LOAD:
            assert struct.unpack_from("<Q" if wide else "<I", data, at + (48 if wide else 28))[0] % PAGE == 0
    assert PT_LOAD in kinds
    assert PT_INTERP not in kinds


COMMANDS = (
    "install wiki-6m.mbundle --json",
    "generate wiki-6m.mbundle --prompt 'The history of the city' --max-new-tokens 12 --json --ignore-eos",
)


def unpacked(apk: Path, abi: str, folder: Path) -> Path:
    """A folder with the runner of the APK and the bundle of the download."""
    folder.mkdir()
    shutil.copy(program(apk, abi, folder.parent / f"{abi}-apk"), folder / "mobile-run")
    with zipfile.ZipFile(PACKED) as file:
        file.extractall(folder / "wiki-6m.mbundle")
    return folder


def token_ids(shell: Callable[[str], str]) -> list[int]:
    """Of a greedy answer. shell: runs the arguments with mobile-run, in a folder that is `unpacked`."""
    installed, answered = (
        [json.loads(line) for line in shell(f"{arguments} </dev/null").splitlines()] for arguments in COMMANDS
    )
    assert installed[-1]["event"] == "installed"
    assert installed[-1]["decoded_bytes"] > 0
    assert answered[-1]["event"] == "done"
    return [event["id"] for event in answered if event["event"] == "token"]


def here(folder: Path, emulator: str) -> list[int]:
    return token_ids(lambda arguments: output("sh", "-c", f"cd {folder} && {emulator} ./mobile-run {arguments}"))


@pytest.fixture(scope="module")
def expected(apk, tmp_path_factory) -> list[int]:
    """By the x86-64 runner."""
    ids = here(unpacked(apk, "x86_64", tmp_path_factory.mktemp("expected") / "files"), "")
    assert len(ids) == 12
    return ids


@pytest.mark.parametrize("abi", ["arm64-v8a", "armeabi-v7a"])
def test_programs_for_arm_answer_with_the_bundle_of_the_download(apk, tmp_path, expected, abi):
    """Under QEMU, which shows that they are right, not how fast they are."""
    emulator = PROGRAMS[abi]
    if not shutil.which(emulator):
        pytest.skip(f"{emulator} is missing; install qemu-user-static")
    assert here(unpacked(apk, abi, tmp_path / "files"), emulator) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("adb_server")
def test_it_answers_on_the_lab_s_arm64_device(apk, tmp_path, expected):
    """Over adb, on a machine with 2 GB of memory."""
    if why := lab.obstacle("arm64"):
        pytest.skip(why)
    with lab.start("arm64", data_dir=unpacked(apk, "arm64-v8a", tmp_path / "files")) as device:

        def shell(arguments: str) -> str:
            return output("adb", "-s", device.serial, "shell", f"cd /data/local/tmp && ./mobile-run {arguments}")

        assert token_ids(shell) == expected
