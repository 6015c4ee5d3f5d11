"""The shapes of 1.5 B and 7 B, from a synthetic checkpoint to tokens: `make test-large`, not part of `make test`.

The second needs 20 GB of disk (TMPDIR) and the right to make a cgroup; it is skipped where they are missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mobile_bundle import lab
from mobile_bundle.native.programs import bundle_runner
from support.checkpoints import write_synthetic
from support.paths import ROOT

pytestmark = pytest.mark.large

# The peak by the kernel, in a process that does nothing else: its own, and what its two workers could have had at most.
BUILD = """
import resource, sys
from mobile_bundle.cli.build import main
if __name__ == "__main__":
    status = main(sys.argv[1:])
    own = int([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1])
    print(own + 2 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
    sys.exit(status)
"""


def build(checkpoint: Path, bundle: Path, *options: str) -> tuple[float, int]:
    """Builds with --recipe bitnet; (seconds, peak in bytes). The checkpoint is removed: it may be large."""
    script = bundle.with_suffix(".py")
    script.write_text(BUILD)
    command = [sys.executable, str(script), str(checkpoint), "-o", str(bundle), "--recipe", "bitnet", *options]
    begin = time.monotonic()
    process = subprocess.run(command, capture_output=True, text=True)
    seconds = time.monotonic() - begin
    shutil.rmtree(checkpoint)
    assert process.returncode == 0, process.stderr
    peak = int(process.stderr.split()[-1]) * 1024
    print(f"\nbuilt in {seconds:.0f} s with a peak of {peak / 1e6:.0f} MB")
    return seconds, peak


@contextmanager
def memory_limit(limit: int) -> Iterator[list[str]]:
    """What to put before a command so that all of its memory, mapped files included, is limited to so many bytes: a
    cgroup inside our own, of version 1 or 2. Skips where none can be made. (ulimit would count address space.)"""
    ours = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        ours[controllers] = path.lstrip("/")
    base, knob = Path("/sys/fs/cgroup", ours.get("", "")), "memory.max"
    if "memory" in ours:
        base, knob = Path("/sys/fs/cgroup/memory", ours["memory"]), "memory.limit_in_bytes"
    group = base / f"mobile-bundle-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    try:
        if not (group / knob).exists():
            pytest.skip(f"{base} does not limit memory")
        (group / knob).write_text(str(limit))
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    finally:
        group.rmdir()


def test_qwen_1_5b_shape_builds_and_runs(tmp_path: Path):
    """Ternary body and a 4-bit embedding: at most 10 minutes, 4 GB and 480 MB; then a full default context."""
    checkpoint, bundle = tmp_path / "qwen", tmp_path / "qwen.mbundle"
    write_synthetic(checkpoint, "qwen2.5-1.5b")
    seconds, peak = build(checkpoint, bundle)
    assert seconds < 600
    assert peak < 4e9
    manifest = json.loads((bundle / "manifest.json").read_text())
    print(f"{manifest['bytes'] / 1e6:.1f} MB, {manifest['bits_per_weight']:.3f} bits per weight")
    assert manifest["bytes"] < 480e6

    (tmp_path / "prompt.txt").write_text("word " * 2030)
    process = subprocess.run(
        [str(bundle_runner(bundle)), "generate", str(bundle), "--prompt-file", str(tmp_path / "prompt.txt"),
         "--max-new-tokens", "17", "--ignore-eos", "--json", "--threads", "2"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout
    seen = {event["event"]: event for event in map(json.loads, process.stdout.splitlines())}
    done, predicted = seen["done"], manifest["predicted"]
    print(f"load {seen['load']['load_seconds']:.3f} s, {done}")
    assert done["memory"]["peak_rss_bytes"] == pytest.approx(predicted["peak_bytes"], rel=0.1)
    assert done["memory"]["peak_anon_bytes"] < 80e6
    assert done["memory"]["peak_rss_bytes"] < 520e6


def test_qwen_1_5b_shape_on_a_device_of_2_gb(tmp_path: Path):
    """The suite of device_tests on the native lab, of whose memory a second process takes half."""
    if why := lab.obstacle("native"):
        pytest.skip(why)
    checkpoint, bundle = tmp_path / "qwen", tmp_path / "qwen.mbundle"
    write_synthetic(checkpoint, "qwen2.5-1.5b")
    build(checkpoint, bundle)
    command = [sys.executable, "-m", "pytest", "device_tests", "--lab", "native", "--bundle", str(bundle),
               "--device-pressure", "1GiB", "--device-threads", "2", "--max-peak", "600MB", "--max-anon", "80MB",
               "--report-folder", str(tmp_path), "-rP"]  # fmt: skip
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    report = json.loads((tmp_path / "native.json").read_text("utf-8"))
    (pressed,) = [cell for cell in report["cells"] if cell["cell"] == "pressure"]
    assert pressed["peak_rss_bytes"] < 520e6
    assert pressed["peak_anon_bytes"] == pytest.approx(report["bundle"]["predicted"]["anon_bytes"], rel=0.1)


def test_llama_2_7b_shape_builds_and_runs_in_1_gb(tmp_path: Path):
    """13.5 GB in bf16, three shards: built in at most 4 GB by two processes; then 4 tokens in 1 GB, layer by layer."""
    if shutil.disk_usage(tmp_path).free < 20e9:
        pytest.skip(f"20 GB are needed in {tmp_path}")
    checkpoint, bundle = tmp_path / "llama", tmp_path / "llama.mbundle"
    try:
        with memory_limit(1_000_000_000) as limited:
            write_synthetic(checkpoint, "llama-2-7b")
            assert len(list(checkpoint.glob("*.safetensors"))) == 3
            _, peak = build(checkpoint, bundle, "--jobs", "2")
            assert 120e6 < peak < 4e9  # with the workers, of which each takes 40 MB at the least
            manifest = json.loads((bundle / "manifest.json").read_text())
            print(f"{manifest['bytes'] / 1e6:.1f} MB, {manifest['bits_per_weight']:.3f} bits per weight")
            assert manifest["model"]["parameters"] == 6_738_415_616
            assert 1e9 < manifest["files"]["weights.ptd"]["bytes"] < 2e9
            process = subprocess.run(
                [*limited, str(bundle_runner(bundle)), "generate", str(bundle), "--mapping", "layers", "--prompt",
                 "The history of the city", "--max-new-tokens", "4", "--ignore-eos", "--json", "--threads", "2"],
                capture_output=True, text=True, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        assert process.returncode == 0, process.stdout + process.stderr
        seen = {event["event"]: event for event in map(json.loads, process.stdout.splitlines())}
        print(f"load {seen['load']['load_seconds']:.3f} s, {seen['done']}")
        assert seen["done"]["tokens"] == 4
        assert seen["done"]["memory"]["peak_rss_bytes"] < 1e9
    finally:
        shutil.rmtree(checkpoint, ignore_errors=True)
        shutil.rmtree(bundle, ignore_errors=True)
