"""Instructions per weight of the loops that decode: as the shipped compiler makes them for arm64."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import ROOT

pytestmark = pytest.mark.slow

WEIGHTS = 256
"""Of one pass of a loop: 16 rows, 16 columns."""

MOST = {
    "neon": {
        "ternary_vector": 0.26,
        "affine_vector_2": 0.27,
        "affine_vector_4": 0.24,
        "trellis_vector_2": 0.47,
        "trellis_vector_25": 0.58,
        "trellis_vector_3": 0.76,
    },
    "neon_dotprod": {
        "ternary_vector": 0.19,
        "affine_vector_2": 0.19,
        "affine_vector_4": 0.17,
        "trellis_vector_2": 0.37,
        "trellis_vector_25": 0.50,
        "trellis_vector_3": 0.56,
    },
}
PRODUCTS = {"neon": ("smlal", "smlal2"), "neon_dotprod": ("sdot",)}


def assembly(file: str, folder: Path) -> list[str]:
    zig = Path(pytest.importorskip("ziglang").__file__).parent / "zig"
    out = folder / f"{file}.s"
    runtime = ROOT / "runtime"
    flags = ["-mcpu=generic+dotprod"] if file == "neon_dotprod" else []
    subprocess.run(
        [zig, "cc", "-target", "aarch64-linux-musl", *flags, "-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno",
         "-DNDEBUG", "-g0", "-I", runtime, "-I", runtime / "include", "-S", runtime / f"kernels/{file}.c", "-o", out],
        check=True, capture_output=True,
    )  # fmt: skip
    return out.read_text("utf-8").splitlines()


def function(lines: list[str], name: str) -> list[str]:
    """Labels and instructions of a function."""
    begin = lines.index(next(line for line in lines if re.match(rf"{name}:", line)))
    end = next(i for i in range(begin, len(lines)) if ".cfi_endproc" in lines[i])
    return [line for line in lines[begin:end] if re.match(r"\.L\w+:|\s+[a-z]", line)]


def loops(body: list[str]) -> Iterator[list[str]]:
    """Instructions of every loop that has none inside."""
    labels = {line.split(":")[0]: i for i, line in enumerate(body) if line.startswith(".L")}
    found = []
    for i, line in enumerate(body):
        jump = re.match(r"\s+(?:b\.\w+|b|cbn?z|tbn?z)\s.*?(\.L\w+)$", line.split("//")[0].rstrip())
        if jump and labels.get(jump[1], i) < i:
            found.append((labels[jump[1]], i))
    for begin, end in found:
        if not any(begin <= a and b <= end and (a, b) != (begin, end) for a, b in found):
            yield [line.split()[0] for line in body[begin : end + 1] if not line.startswith(".L")]


@pytest.mark.parametrize("file", MOST)
def test_a_weight_takes_few_instructions(file, tmp_path):
    lines = assembly(file, tmp_path)
    for name, most in MOST[file].items():
        # a pass multiplies 256 weights: 8 at a time by smlal, 16 by sdot
        wanted = WEIGHTS // (8 if file == "neon" else 16)
        counts = [
            len(loop) for loop in loops(function(lines, name)) if sum(one in PRODUCTS[file] for one in loop) == wanted
        ]
        assert counts, name
        assert min(counts) / WEIGHTS <= most, f"{name}: {min(counts) / WEIGHTS:.3f} instructions per weight"
