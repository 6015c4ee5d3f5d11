"""The C decoder of packed rows (packed/formats.c), built by itself, from Python."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import numpy as np
from mobile_bundle.codecs import Blob
from numpy.typing import NDArray
from support.paths import ROOT


class VectorView(ctypes.Structure):
    """mb_vector_parts."""

    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("length", "stride", "vectors", "index_bits", "residual_bits")),
        *((name, ctypes.c_uint32) for name in ("outliers", "index_bytes", "residual_bytes")),
        *((name, ctypes.c_void_p) for name in ("codebook", "residual_codebook", "row_scales", "outlier_columns")),
        *((name, ctypes.c_void_p) for name in ("outlier_values", "indices", "residual_indices")),
    )


class MatrixView(ctypes.Structure):
    """mb_matrix."""

    _fields_ = (
        ("format", ctypes.c_int),
        *((name, ctypes.c_uint32) for name in ("rows", "columns", "group", "flags")),
        ("scale", ctypes.c_float),
        ("data", ctypes.c_void_p),
        ("row_scales", ctypes.c_void_p),
        ("vector", VectorView),
    )


def build_formats(directory: Path) -> ctypes.CDLL:
    """formats.c alone, as a shared library in this folder."""
    path, runtime = directory / "formats.so", ROOT / "runtime"
    folders = ["-I", runtime, "-I", runtime / "include"]
    command = ["cc", "-std=c11", "-O2", "-fPIC", "-shared", *folders, runtime / "packed/formats.c", "-o", path]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(os.fspath(path))
    library.mb_matrix_view.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p]
    library.mb_matrix_view.restype = ctypes.c_bool
    library.mb_decode_row.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p]
    library.mb_vector_bind.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.mb_payload_bytes.argtypes = [ctypes.c_uint32] * 5
    library.mb_payload_bytes.restype = ctypes.c_uint64
    return library


def decoded_by_c(
    library: ctypes.CDLL, blob: Blob, shape: tuple[int, int], codebook: NDArray[np.int8] | None = None
) -> NDArray[np.float32]:
    """The matrix of a blob, which must not open where a byte is missing. codebook: that it shares."""
    data = np.frombuffer(blob.to_bytes(), np.uint8)
    aligned = np.empty(len(data) + 64, np.uint8)
    start = -aligned.ctypes.data % 64
    aligned[start : start + len(data)] = data
    view, reason, at = MatrixView(), ctypes.c_char_p(), aligned.ctypes.data + start
    assert library.mb_matrix_view(at, len(data), ctypes.byref(view), ctypes.byref(reason)), reason.value
    assert not library.mb_matrix_view(at, len(data) - 1, ctypes.byref(MatrixView()), ctypes.byref(reason))
    if codebook is not None:
        library.mb_vector_bind(ctypes.byref(view), codebook.ctypes.data)
    decoded = np.empty(shape, np.float32)
    for row in range(shape[0]):
        library.mb_decode_row(ctypes.byref(view), row, decoded[row:].ctypes.data)
    return decoded
