"""The runtime under AddressSanitizer and UndefinedBehaviorSanitizer: kernels, and what comes from a hostile hand.

Every fuzz target runs a fixed number of inputs from a fixed random seed, the same every time; `make fuzz` takes fresh
seeds and goes on for as long as it is told."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.paths import ROOT
from support.processes import FUZZ_SEED

INPUTS = {
    "bundle": 20_000,
    "weights": 10_000,
    "tokenizer": 10_000,
    "storage": 5_000,
    "request": 20_000,
    "state": 5_000,
    "constraint": 4_000,
}
"""By target: a few seconds each."""


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory) -> Path:
    """A build of the runtime with sanitizers, its fuzz targets and the tests in C and C++."""
    directory = tmp_path_factory.mktemp("sanitized")
    definitions = ["-DMB_SANITIZE=ON", "-DMB_TESTS=ON", "-DMB_WERROR=ON"]
    targets = ["fuzzers", "test_kernels", "mobile-run"]
    if executorch := importlib.util.find_spec("executorch"):
        assert executorch.submodule_search_locations
        config = Path(executorch.submodule_search_locations[0], "share/cmake")
        definitions += ["-DMB_EXECUTORCH=ON", f"-Dexecutorch_DIR={config}"]
        targets += ["test_executorch_operators"]
    for line in (
        ["cmake", "-S", ROOT / "runtime", "-B", directory, "-G", "Ninja", *definitions],
        ["cmake", "--build", directory, "--parallel", "2", "--target", *targets],
    ):
        process = subprocess.run(line, capture_output=True, text=True)
        assert process.returncode == 0, process.stdout + process.stderr
    return directory


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Path:
    from support.fuzz_seeds import write_seeds

    directory = tmp_path_factory.mktemp("seeds")
    write_seeds(directory)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("target", INPUTS)
def test_hostile_input(sanitized, seeds, tmp_path, target):
    process = subprocess.run(
        [sanitized / f"fuzz_{target}", "--seed", str(FUZZ_SEED), "--inputs", str(INPUTS[target]), "--found", tmp_path,
         *sorted((seeds / target).iterdir())],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout == f"fuzz_{target}: {INPUTS[target]} inputs, 0 findings, seed {FUZZ_SEED}\n"
    assert not list(tmp_path.iterdir())


CATCH = """
#include <stdlib.h>
#include <string.h>
#include "fuzz.h"
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size > 2 && data[0] == 'F' && data[2] != 'Z') abort();
  if (size > 2 && data[1] == 'X') { volatile char *p = malloc(4); p[size] = 1; free((void *)p); }
  return 0;
}
"""


@pytest.fixture(scope="module")
def catching(tmp_path_factory) -> Path:
    """A target with two faults, in a folder as `make fuzz` makes it."""
    directory = tmp_path_factory.mktemp("catch")
    (directory / "catch.c").write_text(CATCH)
    fuzz = ROOT / "tests/runtime/fuzz"
    subprocess.run(
        ["cc", "-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-fsanitize=address", "-I", fuzz, "-o",
         directory / "fuzz_catch", directory / "catch.c", fuzz / "driver.c"],
        check=True,
    )  # fmt: skip
    (directory / "seeds/catch").mkdir(parents=True)
    (directory / "seeds/catch/one").write_bytes(b"EXZ" + bytes(13))
    return directory


@pytest.mark.slow
def test_a_finding_is_kept_and_can_be_made_again(catching, tmp_path):
    seed = catching / "seeds/catch/one"
    line = [catching / "fuzz_catch", "--seed", "7", "--inputs", "300", "--found", tmp_path, seed]
    process = subprocess.run(line, capture_output=True, text=True)
    assert process.returncode == 1
    found = sorted(path for path in tmp_path.iterdir() if path.suffix != ".log")
    assert found
    assert re.fullmatch(rf"fuzz_catch: \d+ inputs, {len(found)} findings, seed 7\n", process.stdout)
    for path in found:
        number = path.name.removeprefix("fuzz_catch-7-")
        again = subprocess.run([catching / "fuzz_catch", "--seed", "7", "--write", number, seed], capture_output=True)
        assert again.stdout == path.read_bytes()
        assert subprocess.run([catching / "fuzz_catch", "--run", path], capture_output=True).returncode != 0
        log = path.with_name(f"{path.name}.log").read_text()
        assert f"--run {path}" in log
    assert any("heap-buffer-overflow" in path.read_text() for path in tmp_path.glob("*.log"))
    second = subprocess.run(line, capture_output=True, text=True)
    assert second.stdout == process.stdout
    assert sorted(path for path in tmp_path.iterdir() if path.suffix != ".log") == found


@pytest.mark.slow
def test_the_script_counts_and_says_where_findings_are(catching):
    line = [ROOT / "scripts/fuzz.sh", catching, "--inputs", "200", "--processes", "2", "--seed", "7"]
    process = subprocess.run(line, capture_output=True, text=True)
    assert process.returncode == 1
    assert re.search(r"fuzz_catch +\d+ inputs +[1-9]\d* findings", process.stdout)
    assert str(catching / "found") in process.stdout
    assert list((catching / "found").glob("fuzz_catch-7-*"))
    shutil.rmtree(catching / "found")
    (catching / "seeds/catch/one").write_bytes(b"Z")
    process = subprocess.run([*line[:3], "60000", *line[4:]], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    assert re.search(r"fuzz_catch +60000 inputs +0 findings", process.stdout)
    for wrong in (["--inputs", "many"], ["--minutes", "1", "--inputs", "1"], ["--seed", "1"]):
        assert subprocess.run([line[0], catching, *wrong], capture_output=True).returncode == 2


@pytest.mark.slow
def test_kernels_under_sanitizers(sanitized):
    process = subprocess.run([sanitized / "test_kernels"], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.slow
def test_executorch_s_operators_under_sanitizers(sanitized, tmp_path):
    pytest.importorskip("executorch")
    from mobile_bundle.codecs import Blob
    from mobile_bundle.lower.ops import LINEAR
    from support.packed_weights import CODECS, packed

    for codec in CODECS:
        file = tmp_path / codec
        file.write_bytes(packed(codec, 45, 150).numpy().tobytes())
        operator = LINEAR[Blob.parse(file.read_bytes()).header.format]
        process = subprocess.run(
            [sanitized / "executorch/ops/test_executorch_operators", str(FUZZ_SEED), operator, file],
            capture_output=True, text=True,
        )  # fmt: skip
        assert process.returncode == 0, f"{codec}\n{process.stderr[-4000:]}"


@pytest.mark.slow
def test_the_runner_under_sanitizers(sanitized, bundle):
    for recipe in ("affine-4bit", "bitnet", "raw", "bitnet-1.6bit"):
        process = subprocess.run(
            [sanitized / "mobile-run", "generate", bundle(recipe), "--prompt", "The history of",
             "--max-new-tokens", "8", "--temperature", "0.8", "--threads", "2"],
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr


@pytest.mark.slow
def test_serving_under_sanitizers(sanitized, bundle):
    from support.serve import BAD_REQUESTS, GOOD_REQUESTS

    lines = [*GOOD_REQUESTS, *(line for line, _ in BAD_REQUESTS)]
    process = subprocess.Popen(
        [sanitized / "mobile-run", "serve", bundle("affine-4bit"), "--threads", "2"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    answers = 0
    process.stdin.write("".join(line + "\n" for line in lines))
    process.stdin.flush()
    while answers < len(lines):
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        answers += json.loads(line)["event"] in ("done", "error")
    _, complaints = process.communicate()
    assert process.returncode == 0, complaints
