"""The 1.5 B shape, from a synthetic checkpoint to tokens: `make test-large`, outside continuous integration."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkpoints import write_synthetic
from mobile_bundle.native import bundle_runner

pytestmark = pytest.mark.large

# The builder's own peak, by the kernel, in a process that does nothing else.
BUILD = """
import sys
from mobile_bundle.cli.build import main
status = main(sys.argv[1:])
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1], file=sys.stderr)
sys.exit(status)
"""


def test_qwen_1_5b_shape_builds_and_runs(tmp_path: Path):
    """Ternary body and a 4-bit embedding: at most 10 minutes, 4 GB and 480 MB; then a full default context."""
    checkpoint, bundle = tmp_path / "qwen", tmp_path / "qwen.mbundle"
    write_synthetic(checkpoint, "qwen2.5-1.5b")
    begin = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-c", BUILD, str(checkpoint), "-o", str(bundle), "--recipe", "bitnet"],
        capture_output=True, text=True,
    )  # fmt: skip
    seconds = time.monotonic() - begin
    assert process.returncode == 0, process.stderr
    peak = int(process.stderr.split()[-1]) * 1024
    print(f"\nbuilt in {seconds:.0f} s with a peak of {peak / 1e6:.0f} MB")
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
