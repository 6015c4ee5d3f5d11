"""Every way of pulling the plug during a device test: a clear line, and the report so far."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mobile_bundle import lab
from mobile_bundle.cli.main import main
from mobile_bundle.device.measuring.cells import Settings
from mobile_bundle.device.session import Asked
from mobile_bundle.device.transport import adb
from mobile_bundle.device.transport.adb import Device
from support import checkpoints
from support.checkpoints import LLAMA, write_byte_tokenizer, write_synthetic
from support.device_support import WhenRunning, run_test, valid_report
from support.paths import EXAMPLE

pytestmark = pytest.mark.serial

MIB = 1 << 20
LONG = Settings(cells=("warm-load", "soak"), reps=1, new_tokens=512, soak_seconds=10)
"""A soak without a decode cell before it decodes 10 x 512 tokens: seconds, in which something can happen."""


@pytest.fixture
def stand_in(native_lab, monkeypatch) -> Iterator[lab.LabDevice]:
    monkeypatch.setattr(adb, "_PATIENCE", 2.0)  # a device that was killed does not come back
    with native_lab() as started:
        yield started


@pytest.mark.parametrize("plug", ["kill_adbd", "kill"])
def test_a_device_that_goes_away(stand_in, bundle, tmp_path, plug):
    pull_the_plug(stand_in, getattr(stand_in, plug), bundle("affine-4bit"), tmp_path / "report.json")


@pytest.mark.slow
def test_a_virtual_machine_that_goes_away(adb_server, bundle, tmp_path, monkeypatch):
    if why := lab.obstacle("arm64"):
        pytest.skip(why)
    monkeypatch.setattr(adb, "_PATIENCE", 2.0)
    with lab.start("arm64") as machine:
        pull_the_plug(machine, machine.kill, bundle("affine-4bit"), tmp_path / "report.json")


def pull_the_plug(stand_in: lab.LabDevice, pull: Callable[[], None], tested: Path, kept: Path) -> None:
    """While the runner runs; the report tells it, and keeps what there was until then."""
    asked = Asked(tested, settings=replace(LONG, cells=("warm-load", "cancel", "soak")))
    with WhenRunning(stand_in.serial, pull) as pulled:
        report = run_test(asked, stand_in.serial, kept)
    assert pulled.done
    data = valid_report(kept)
    assert report.error == data["error"]
    assert "is gone" in data["error"] or "is offline" in data["error"]
    assert data["verdict"]["passed"] is False
    assert data["finished"] is False
    kinds = [cell["outcome"]["kind"] for cell in data["cells"]]
    assert len({"device-gone", "device-offline"} & set(kinds)) == 1
    assert set(kinds) <= {"ok", "device-gone", "device-offline", "not-run"}
    assert data["device"]["memory_bytes"] == pytest.approx(stand_in.memory_bytes, rel=0.05)


def test_the_command_says_so_in_one_line(stand_in, bundle, tmp_path, capsys):
    files = (tmp_path / "r.json", tmp_path / "r.html")
    arguments = ["device-test", bundle("affine-4bit"), "--serial", stand_in.serial, "--cells", "soak", "--soak", "10"]
    arguments += ["-n", "512", "--json", files[0], "--html", files[1]]
    with WhenRunning(stand_in.serial, stand_in.kill):
        assert main(list(map(str, arguments))) == 1
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    last = said.err.strip().splitlines()[-1]
    assert last.startswith("mobile-bundle: ")
    assert "is gone" in last
    assert str(files[0]) in last
    assert "verdict: MISSED" in said.out
    assert valid_report(files[0])["error"]
    assert "Ended early" in files[1].read_text("utf-8")


def test_an_adb_server_that_is_restarted(stand_in, bundle, tmp_path):
    kept = tmp_path / "report.json"

    def restart() -> None:
        subprocess.run(["adb", "kill-server"], check=True, capture_output=True)

    with WhenRunning(stand_in.serial, restart) as restarted:
        report = run_test(Asked(bundle("affine-4bit"), settings=LONG), stand_in.serial, kept)
    assert restarted.done
    assert report.error is None
    assert report.finished
    notes = [note for cell in report.cells for run in cell.runs for note in run.notes]
    assert any("run again" in note for note in notes) or all(cell.outcome.ok for cell in report.cells)
    valid_report(kept)


@pytest.mark.parametrize(("program", "words"), [("mobile-run", "SIGKILL"), ("mobile-watch", "mobile-watch ended")])
def test_a_program_that_is_killed(stand_in, bundle, tmp_path, program, words):
    kept, device = tmp_path / "report.json", Device(stand_in.serial)
    settings = replace(LONG, cells=("soak", "decode"), new_tokens=256)  # decode comes first, and is run in 0.3 s

    def kill() -> None:
        device.try_shell(f"kill -9 $(pidof {program})")

    with WhenRunning(stand_in.serial, kill, program) as killed:
        report = run_test(Asked(bundle("affine-4bit"), settings=settings), stand_in.serial, kept)
    assert killed.done
    assert report.error is None
    assert report.finished
    outcomes = {cell.cell: cell.outcome for cell in report.cells}
    bad = [outcome for outcome in outcomes.values() if not outcome.ok]
    assert [outcome.kind for outcome in bad] == ["killed"]
    assert words in bad[0].cause
    assert not valid_report(kept)["verdict"]["passed"]


@pytest.fixture
def small_disk(stand_in) -> Iterator[str]:
    device = Device(stand_in.serial)
    folder = "/data/local/tmp/small"
    device.shell(f"mkdir -p {folder} && mount -t tmpfs -o size=2m none {folder}")
    yield folder
    device.shell(f"umount {folder}")


def test_a_disk_that_is_too_small(stand_in, small_disk, bundle, tmp_path):
    kept = tmp_path / "report.json"
    asked = Asked(bundle("affine-4bit"), settings=LONG, work=f"{small_disk}/work")
    refused = run_test(asked, stand_in.serial, kept)
    assert refused.error is None
    assert "too large for the device's storage" in valid_report(kept)["refused"][0]
    assert not refused.passed
    forced = run_test(replace(asked, force=True), stand_in.serial, kept)
    assert "no space left on the device" in (forced.error or "")
    data = valid_report(kept)
    assert data["error"] == forced.error
    assert {cell["outcome"]["kind"] for cell in data["cells"]} == {"not-run"}


@pytest.fixture(scope="module")
def wide(tmp_path_factory, bundle: Callable[..., Path]) -> Path:
    """A bundle that is small on disk and large in memory: 17 kB of KV cache per token."""
    checkpoints.SHAPES["wide"] = {
        **LLAMA, "hidden_size": 256, "intermediate_size": 344, "num_hidden_layers": 32, "num_attention_heads": 8,
        "num_key_value_heads": 8, "vocab_size": 16384,
    }  # fmt: skip
    model = write_synthetic(tmp_path_factory.mktemp("wide") / "wide", "wide")
    write_byte_tokenizer(model)
    return bundle("bitnet", model)


def test_a_bundle_that_is_too_large(native_lab, wide, tmp_path, capsys):
    """Refused with the arithmetic before anything is sent; by force, killed by OOM, which is a result."""
    kept = tmp_path / "report.json"
    settings = Settings(cells=("warm-load", "long-context", "cancel"), reps=1, context=2048)
    with native_lab(memory_bytes=36 * MIB) as small:
        asked = Asked(wide, settings=settings, label=small.label)
        refused = run_test(asked, small.serial, kept)
        assert refused.refused[0].startswith("too large for the device's memory: ")
        assert "the device has 37.7 MB in total" in refused.refused[0]
        assert refused.pushed_bytes is None
        assert refused.cells == []
        assert not valid_report(kept)["verdict"]["passed"]
        forced = run_test(replace(asked, force=True), small.serial, kept)
    assert forced.error is None
    assert forced.finished
    outcomes = {cell["cell"]: cell["outcome"] for cell in valid_report(kept)["cells"]}
    assert outcomes["warm-load"]["kind"] == "ok"
    assert outcomes["long-context"]["kind"] == "oom"
    assert "OOM" in outcomes["long-context"]["cause"]
    assert outcomes["cancel"]["kind"] == "ok"  # the test went on
    assert not forced.passed


PROGRAMS = {
    "illegal-instruction": ("__builtin_trap();", "SIGILL"),
    "crash": ("*(volatile int *)0 = 1;", "SIGSEGV"),
    "timeout": ("for (;;) sleep(1);", "did not end within 2 s"),
    "error": ('puts("{\\"event\\":\\"error\\",\\"message\\":\\"out of luck\\"}"); return 1;', "out of luck"),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_how_a_program_ends_is_a_result(stand_in, bundle, tmp_path, kind):
    """A bundle whose runner does nothing but end in that way."""
    body, words = PROGRAMS[kind]
    made = tmp_path / "odd.mbundle"
    shutil.copytree(bundle("affine-4bit"), made)
    source, program = tmp_path / "odd.c", made / "bin/x86_64/mobile-run"
    source.write_text(f"#include <stdio.h>\n#include <unistd.h>\nint main(void) {{ {body} }}\n")
    subprocess.run(["cc", "-static", "-O1", "-o", program, source], check=True)
    _seal(made)
    asked = Asked(made, settings=Settings(cells=("warm-load",), reps=1, timeout=2))
    report = run_test(asked, stand_in.serial, tmp_path / "report.json")
    assert report.finished
    assert report.cells[0].outcome.kind == kind
    assert words in report.cells[0].outcome.cause
    valid_report(tmp_path / "report.json")


def _seal(made: Path) -> None:
    """Makes the manifest true again after a file was exchanged."""
    from mobile_bundle.container.manifest import describe_files, read_manifest, write_manifest

    manifest = read_manifest(made)
    write_manifest(made, {**manifest, "files": describe_files(made)})


def test_a_runtime_that_is_not_there_is_a_result(stand_in, bundle, tmp_path):
    asked = Asked(
        bundle("affine-4bit"), ("native", "executorch", "onnx"), False, Settings(cells=("warm-load",), reps=1)
    )
    report = run_test(asked, stand_in.serial, tmp_path / "report.json")
    kinds = {cell.runtime: cell.outcome for cell in report.cells}
    assert kinds["native"].ok
    assert kinds["executorch"].cause.startswith("not available: ")
    assert report.passed
    strict = run_test(replace(asked, runtimes=("onnx",), required=True), stand_in.serial, tmp_path / "report.json")
    assert not strict.passed
    valid_report(tmp_path / "report.json")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nowhere.mbundle", "--serial", "x"], 1, "does not exist"),
        ([EXAMPLE, "--serial", "x", "--lab", "native"], 2, "not allowed"),
        ([EXAMPLE, "--cells", "decode,party"], 2, "party"),
        ([EXAMPLE, "--lab", "moon"], 2, "moon"),
        ([EXAMPLE, "--serial", "x", "--json", "no/such/folder/r.json"], 1, "cannot be written"),
        ([EXAMPLE, "--serial", "x", "--baseline", "nowhere.json"], 1, "nowhere.json"),
    ],
)
def test_bad_usage(adb_server, capsys, arguments, status, words):
    try:
        found = main(["device-test", *map(str, arguments)])
    except SystemExit as end:
        found = end.code
    assert found == status
    assert words in capsys.readouterr().err
