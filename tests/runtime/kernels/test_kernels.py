"""The C test of the kernels (test_kernels.c beside this), natively and on emulated ARM processors, and the C decoder
of packed rows against the codecs' decode in NumPy."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.codecs import Blob, codec_by_name
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


class VectorParts(ctypes.Structure):
    """mb_vector_parts: eight numbers and seven addresses."""

    _fields_ = (("numbers", ctypes.c_uint32 * 8), ("addresses", ctypes.c_void_p * 7))


class Matrix(ctypes.Structure):
    """mb_matrix."""

    _fields_ = (
        ("format", ctypes.c_int),
        ("rows", ctypes.c_uint32),
        ("columns", ctypes.c_uint32),
        ("group", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("scale", ctypes.c_float),
        ("data", ctypes.c_void_p),
        ("row_scales", ctypes.c_void_p),
        ("vector", VectorParts),
    )


@pytest.fixture(scope="module")
def formats(tmp_path_factory) -> ctypes.CDLL:
    """formats.c alone, as a shared library."""
    path = tmp_path_factory.mktemp("formats") / "formats.so"
    runtime = ROOT / "runtime"
    folders = ["-I", runtime, "-I", runtime / "include"]
    command = ["cc", "-std=c11", "-O2", "-fPIC", "-shared", *folders, runtime / "packed/formats.c", "-o", path]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(os.fspath(path))
    library.mb_matrix_view.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p]
    library.mb_matrix_view.restype = ctypes.c_bool
    library.mb_decode_row.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p]
    library.mb_payload_bytes.argtypes = [ctypes.c_uint32] * 5
    library.mb_payload_bytes.restype = ctypes.c_uint64
    return library


CODECS = ["raw", "f32", "bitnet", "bitnet-row", "bitnet-1.25bit", "bitnet-1.25bit-row"]
CODECS += ["sign-1bit", "sign-1bit-g64", "sign-1bit-g32"]
CODECS += [f"trellis-{bits}bit-g{group}" for bits in (2, 3) for group in (32, 64, 128)]
CODECS += [
    f"affine-{bits}bit-g{group}-{kind}"
    for bits in (2, 3, 4, 5, 6, 8)
    for group in (32, 64, 128)
    for kind in ("sym", "asym")
]


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 129), (17, 3), (31, 172), (48, 256)])
def test_c_and_python_decode_the_same_numbers(formats, name, shape):
    weight = np.random.default_rng(7).normal(0, 0.03, shape).astype(np.float32)
    codec = codec_by_name(name)
    blob: Blob = codec.encode(weight)
    data = np.frombuffer(blob.to_bytes(), np.uint8)
    aligned = np.empty(len(data) + 64, np.uint8)
    start = -aligned.ctypes.data % 64
    aligned[start : start + len(data)] = data
    view, reason = Matrix(), ctypes.c_char_p()
    at = aligned.ctypes.data + start
    assert formats.mb_matrix_view(at, len(data), ctypes.byref(view), ctypes.byref(reason)), reason.value
    assert not formats.mb_matrix_view(at, len(data) - 1, ctypes.byref(Matrix()), ctypes.byref(reason))
    decoded = np.empty(shape, np.float32)
    for row in range(shape[0]):
        formats.mb_decode_row(ctypes.byref(view), row, decoded[row:].ctypes.data)
    np.testing.assert_array_equal(decoded, codec.decode(blob))
    header = blob.header
    assert header.payload_bytes == formats.mb_payload_bytes(
        int(header.format), header.rows, header.columns, header.group, header.flags
    )
