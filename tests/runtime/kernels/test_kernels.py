"""The C test of the kernels (test_kernels.c beside this), natively and on emulated ARM processors, and the C decoder
of packed rows against the codecs' decode in NumPy."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.codecs import Blob, codec_by_name
from support.formats_library import build_formats, decoded_by_c
from support.paths import ROOT

PROCESSORS = {
    "x86_64": ("x86_64", []),
    "arm64 cortex-a53": ("arm64-v8a", ["qemu-aarch64-static", "-cpu", "cortex-a53"]),
    "arm64 cortex-a76": ("arm64-v8a", ["qemu-aarch64-static", "-cpu", "cortex-a76"]),
    "armv7 cortex-a7": ("armeabi-v7a", ["qemu-arm-static", "-cpu", "cortex-a7"]),
}


@pytest.fixture(scope="module")
def test_program(tmp_path_factory):
    """test_program(abi): the C test, built the way that the runners are."""
    zig = Path(pytest.importorskip("ziglang").__file__).parent / "zig"
    built: dict[str, Path] = {}

    def build(abi: str) -> Path:
        if abi not in built:
            directory = tmp_path_factory.mktemp(abi)
            toolchain = ROOT / "runtime/cmake/zig.cmake"
            for line in (
                ["cmake", "-S", ROOT / "runtime", "-B", directory, "-G", "Ninja", "-DMB_TESTS=ON", f"-DMB_ABI={abi}",
                 "-DMB_WERROR=ON",
                 f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", f"-DMB_ZIG={zig}", "-DCMAKE_BUILD_TYPE=Release"],
                ["cmake", "--build", directory, "--target", "test_kernels"],
            ):  # fmt: skip
                process = subprocess.run(line, capture_output=True, text=True)
                assert process.returncode == 0, process.stdout + process.stderr
            built[abi] = directory / "test_kernels"
        return built[abi]

    return build


@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSORS)
def test_every_kernel_equals_the_scalar_one(test_program, processor):
    abi, emulator = PROCESSORS[processor]
    process = subprocess.run([*emulator, test_program(abi)], capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.fixture(scope="module")
def formats(tmp_path_factory) -> ctypes.CDLL:
    return build_formats(tmp_path_factory.mktemp("formats"))


CODECS = ["raw", "f32", "bitnet", "bitnet-row", "bitnet-1.25bit", "bitnet-1.25bit-row"]
CODECS += ["sign-1bit", "sign-1bit-g64", "sign-1bit-g32"]
CODECS += [
    f"trellis-{bits}bit-g{group}{scales}"
    for bits in (2, 2.5, 3)
    for group in ((64, 128) if bits == 2.5 else (32, 64, 128))
    for scales in ("", "-e4m4")
]
CODECS += [
    f"affine-{bits}bit-g{group}-{kind}"
    for bits in (2, 3, 4, 5, 6, 8)
    for group in (32, 64, 128)
    for kind in ("sym", "asym", "e4m4")
    if kind != "e4m4" or 3 <= bits <= 6
]


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 129), (17, 3), (31, 172), (48, 256)])
def test_c_and_python_decode_the_same_numbers(formats, name, shape):
    weight = np.random.default_rng(7).normal(0, 0.03, shape).astype(np.float32)
    codec = codec_by_name(name)
    blob: Blob = codec.encode(weight)
    np.testing.assert_array_equal(decoded_by_c(formats, blob, shape), codec.decode(blob))
    header = blob.header
    assert header.payload_bytes == formats.mb_payload_bytes(
        int(header.format), header.rows, header.columns, header.group, header.flags
    )
