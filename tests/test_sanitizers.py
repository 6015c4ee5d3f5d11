"""The runtime under AddressSanitizer and UndefinedBehaviorSanitizer: kernels, hostile weights, hostile tokenizers.

Fuzzing is bounded in time (MB_FUZZ_SECONDS, 20 by default, for each target); its random seed is printed and can be
given as MB_FUZZ_SEED."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from pathlib import Path

import executorch
import pytest
from conftest import ROOT

FUZZ_SECONDS = os.environ.get("MB_FUZZ_SECONDS", "20")


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory) -> Path:
    """A build of the runtime with sanitizers, its fuzz targets and the tests in C and C++."""
    directory = tmp_path_factory.mktemp("sanitized")
    config = Path(executorch.__path__[0], "share/cmake")
    for line in (
        ["cmake", "-S", ROOT / "runtime", "-B", directory, "-DMB_SANITIZE=ON", "-DMB_TESTS=ON", "-DMB_EXECUTORCH=ON",
         "-DMB_WERROR=ON", f"-Dexecutorch_DIR={config}", "-G", "Ninja"],
        ["cmake", "--build", directory, "--parallel", "2", "--target", "fuzz_weights", "fuzz_tokenizer", "fuzz_storage",
         "fuzz_request", "test_kernels", "test_executorch_operators", "mobile-run"],
    ):  # fmt: skip
        process = subprocess.run(line, capture_output=True, text=True)
        assert process.returncode == 0, process.stdout + process.stderr
    return directory


def fuzz(directory: Path, target: str, seeds: list[Path], work: Path) -> None:
    seed = os.environ.get("MB_FUZZ_SEED", str(secrets.randbits(32)))
    process = subprocess.run(
        [directory / target, FUZZ_SECONDS, seed, *seeds], capture_output=True, text=True, cwd=work, timeout=600
    )
    assert process.returncode == 0, f"random seed {seed}\n{process.stdout}{process.stderr}"
    assert int(process.stdout.split()[0]) > 100, "the fuzzer hardly ran"
    print(target, process.stdout.strip(), "random seed", seed)


@pytest.mark.slow
def test_hostile_weights(sanitized, tmp_path):
    from checkpoints import write_tiny_weights

    fuzz(sanitized, "fuzz_weights", write_tiny_weights(tmp_path), tmp_path)


@pytest.mark.slow
def test_hostile_tokenizers(sanitized, tmp_path):
    from test_tokenizer import small_tokenizer_files

    fuzz(sanitized, "fuzz_tokenizer", small_tokenizer_files(tmp_path), tmp_path)


@pytest.mark.slow
def test_hostile_stored_blobs(sanitized, tmp_path):
    from test_install import write_stored_blobs

    fuzz(sanitized, "fuzz_storage", write_stored_blobs(tmp_path), tmp_path)


@pytest.mark.slow
def test_hostile_requests(sanitized, tmp_path):
    from test_serve import BAD_REQUESTS, GOOD_REQUESTS

    seeds = []
    for number, line in enumerate([*GOOD_REQUESTS, *(line for line, _ in BAD_REQUESTS)]):
        seeds.append(tmp_path / f"{number}.json")
        seeds[-1].write_text(line)
    fuzz(sanitized, "fuzz_request", seeds, tmp_path)


@pytest.mark.slow
def test_kernels_under_sanitizers(sanitized):
    process = subprocess.run([sanitized / "test_kernels"], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.slow
def test_executorch_s_operators_under_sanitizers(sanitized, tmp_path):
    from mobile_bundle.codecs import Blob
    from mobile_bundle.lower.ops import LINEAR
    from test_lower import CODECS, packed

    seed = os.environ.get("MB_FUZZ_SEED", str(secrets.randbits(32)))
    for codec in CODECS:
        file = tmp_path / codec
        file.write_bytes(packed(codec, 45, 150).numpy().tobytes())
        operator = LINEAR[Blob.parse(file.read_bytes()).header.format]
        process = subprocess.run(
            [sanitized / "executorch/ops/test_executorch_operators", seed, operator, file],
            capture_output=True, text=True,
        )  # fmt: skip
        assert process.returncode == 0, f"{codec}, random seed {seed}\n{process.stderr[-4000:]}"


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
    from test_serve import BAD_REQUESTS, GOOD_REQUESTS

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
