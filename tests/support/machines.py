"""mobile-run of every ABI and kernel table, natively and under QEMU."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

PROMPTS = ["The history of the city", "In 1984, he", "Water is"]
TOKENS = 16


MACHINES = {
    "x86_64 avx2": ([], "x86_64", "avx2"),
    "x86_64 avx512": ([], "x86_64", "avx512"),  # where this processor has it
    "x86_64 scalar": ([], "x86_64", "scalar"),
    "arm64 cortex-a53 (no dotprod)": (["qemu-aarch64-static", "-cpu", "cortex-a53"], "arm64-v8a", "neon"),
    "arm64 cortex-a76 (dotprod)": (["qemu-aarch64-static", "-cpu", "cortex-a76"], "arm64-v8a", "neon_dotprod"),
    "armv7 cortex-a7": (["qemu-arm-static", "-cpu", "cortex-a7"], "armeabi-v7a", "neon"),
}


def tokens(directory: Path, machine: str, prompt: str, kv_type: str) -> list[int]:
    emulator, abi, kernels = MACHINES[machine]
    if emulator and not shutil.which(emulator[0]):
        pytest.fail(f"{emulator[0]} is missing: install qemu-user-static")
    process = subprocess.run(
        [*emulator, str(directory / "bin" / abi / "mobile-run"), "generate", str(directory), "--json", "--ignore-eos",
         "--prompt", prompt, "--max-new-tokens", str(TOKENS), "--kv", kv_type, "--context", "64", "--kernels", kernels],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    if kernels == "avx512" and "has no avx512 kernels" in process.stdout + process.stderr:
        pytest.skip("this processor has no AVX-512 with VNNI")
    seen = [json.loads(line) for line in process.stdout.splitlines()]
    assert process.returncode == 0, process.stdout + process.stderr
    assert seen[0]["kernels"] == kernels
    return [event["id"] for event in seen if event["event"] == "token"]
