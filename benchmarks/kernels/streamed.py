"""How many bytes of weights a second each packed format's kernel reads from memory, beside the 4-bit one.

    python benchmarks/kernels/streamed.py

One thread and its own time, this machine's best kernels, 200 MB of weights of each format, which fit into no cache, in
matrices of so many rows that all have the same bytes: what a call costs besides (7 us) weighs the same. The fastest of
some rounds is kept, with the formats in turn, so that a busy machine hits all of them.
"""

from __future__ import annotations

import time

import numpy as np
from decode_cost import COLUMNS, aligned
from mobile_bundle.codecs import codec_by_name
from mobile_bundle.native.linear import linear

NAMES = (
    "affine-4bit",
    "affine-2bit",
    "affine-3bit",
    "affine-5bit",
    "affine-6bit",
    "affine-8bit",
    "sign-1bit",
    "bitnet",
)
MATRIX = 3_400_000
BYTES = 200_000_000
ROUNDS = 12


def main() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((1, COLUMNS)).astype(np.float32)
    weights = generator.standard_normal((16384, COLUMNS)).astype(np.float32)
    rows, blobs = {}, {}
    for name in NAMES:
        codec = codec_by_name(name)
        rows[name] = MATRIX // (len(codec.encode(weights[:64]).to_bytes()) // 64) // 16 * 16
        assert rows[name] <= len(weights)
        data = codec.encode(weights[: rows[name]]).to_bytes()
        blobs[name] = [aligned(data) for _ in range(BYTES // len(data))]
    best = dict.fromkeys(NAMES, float("inf"))
    for _ in range(ROUNDS):
        for name, each in blobs.items():
            begin = time.thread_time()
            for blob in each:
                linear(blob, x, rows[name])
            best[name] = min(best[name], time.thread_time() - begin)
    speed = {name: sum(map(len, each)) / best[name] / 1e9 for name, each in blobs.items()}
    for name in NAMES:
        print(f"{name:12} {speed[name]:6.2f} GB/s  {speed[name] / speed[NAMES[0]]:.2f} of {NAMES[0]}", flush=True)


if __name__ == "__main__":
    main()
