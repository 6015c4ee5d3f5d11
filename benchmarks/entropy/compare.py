"""The lossless stage side by side: size and decoding speed of rANS, deflate and LZMA per packed format, on one thread.

    compare.py [--rows 2048] [--columns 4096] [--repeats 9] [CODEC ...]

Gaussian weights. Every line is measured in one run, the decoders in turn, each into the same memory; a figure is the
median of the thread's own time, in GB (1e9 bytes) of packed output per second: compare the columns of one run. "copy"
is memcpy of the packed blob, "entropy" the order-0 entropy of its bytes (which mixes scales and codes)."""

from __future__ import annotations

import argparse
import ctypes
import lzma
import statistics
import time
import zlib
from collections.abc import Callable

import numpy as np
from mobile_bundle.codecs import Blob, codec_by_name
from mobile_bundle.codecs.blob import BlobHeader, Format
from mobile_bundle.codecs.entropy import DICTIONARY_BYTES, HEAD_BYTES, METHODS
from mobile_bundle.native.entropy import rans_encode
from mobile_bundle.native.library import library
from numpy.typing import NDArray

LZMA_FILTERS = [{"id": lzma.FILTER_LZMA1, "dict_size": DICTIONARY_BYTES, "lc": 0, "lp": 0, "pb": 0}]
LZMA_PROPERTIES = 0


def coded(packed: Blob, method: str, body: bytes, properties: int = 0) -> NDArray[np.uint8]:
    payload = packed.header.pack() + bytes([METHODS.index(method), properties]) + bytes(6) + body
    header = BlobHeader(Format.ENTROPY, packed.header.rows, packed.header.columns, coded_bytes=len(payload))
    return np.frombuffer(Blob(header, payload).to_bytes(), np.uint8).copy()


def decoder(name: str, blob: NDArray[np.uint8], out: NDArray[np.uint8]) -> Callable[[], None]:
    """Decodes with the C library; `name`: its rANS decoder."""
    written = ctypes.c_uint64()
    function = library().mb_entropy_decode_with

    def run() -> None:
        status = function(name.encode(), blob.ctypes.data, len(blob), out.ctypes.data, len(out), ctypes.byref(written))
        if status or written.value != len(out):
            raise SystemExit((library().mb_error_message() or b"").decode())

    return run


def byte_entropy(data: NDArray[np.uint8]) -> float:
    counts = np.bincount(data, minlength=256)
    counts = counts[counts > 0]
    return float((counts * np.log2(len(data) / counts)).sum() / 8)


def measure(name: str, rows: int, columns: int, repeats: int) -> None:
    weight = (np.random.default_rng(0).standard_normal((rows, columns)) * 0.02).astype(np.float32)
    packed = codec_by_name(name).encode(weight)
    data = np.frombuffer(packed.to_bytes(), np.uint8)
    out = np.zeros(len(data), np.uint8)
    begin = time.thread_time()
    rans = coded(packed, "rans", rans_encode(data))
    encode_speed = len(data) / (time.thread_time() - begin) / 1e6
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    deflated = deflater.compress(packed.payload) + deflater.flush()
    lzma_body = lzma.compress(packed.payload, lzma.FORMAT_RAW, filters=LZMA_FILTERS)
    runs: dict[str, Callable[[], object]] = {
        "copy": lambda: np.copyto(out, data),
        "rANS avx2": decoder("avx2", rans, out),
        "rANS scalar": decoder("scalar", rans, out),
        "inflate": decoder("scalar", coded(packed, "deflate", deflated), out),
        "zlib": lambda: zlib.decompress(deflated, -15, len(data)),
        "LZMA": decoder("scalar", coded(packed, "lzma", lzma_body, LZMA_PROPERTIES), out),
        "liblzma": lambda: lzma.decompress(lzma_body, lzma.FORMAT_RAW, filters=LZMA_FILTERS),
    }
    times: dict[str, list[float]] = {run: [] for run in runs}
    for repeat in range(repeats):
        for run, function in runs.items():
            if run in ("LZMA", "liblzma") and repeat >= 2:
                continue  # seconds each
            begin = time.thread_time()
            function()
            times[run].append(time.thread_time() - begin)
            if run not in ("zlib", "liblzma") and not np.array_equal(out, data):
                raise SystemExit(f"{name}: {run} gave other bytes")
    sizes = {"packed": len(data), "entropy": byte_entropy(data), "rANS": len(rans)}
    sizes |= {"deflate": len(deflated) + HEAD_BYTES + 64, "LZMA": len(lzma_body) + HEAD_BYTES + 64}
    speeds = {run: len(data) / statistics.median(values) / 1e9 for run, values in times.items()}
    print(f"{name}: rANS encodes at {encode_speed:.0f} MB/s")
    print("  bits per weight  " + "  ".join(f"{what} {8 * size / weight.size:.4f}" for what, size in sizes.items()))
    print("  decoding, GB/s   " + "  ".join(f"{run} {speed:.3f}" for run, speed in speeds.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codecs", nargs="*", default=["bitnet", "affine-2bit", "affine-3bit", "affine-4bit", "raw"])
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    for name in arguments.codecs:
        measure(name, arguments.rows, arguments.columns, arguments.repeats)


if __name__ == "__main__":
    main()
