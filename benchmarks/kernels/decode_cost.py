"""FormatRules.decode_cost: what a weight of each packed format costs in a product, relative to AFFINE4.

    python benchmarks/kernels/decode_cost.py

One thread, this machine's best kernels, weights that fit into a cache. The time of a call is taken out by a matrix of
fewer rows; the fastest of many rounds is kept, with the formats in turn, so that a busy machine hits all of them.
"""

from __future__ import annotations

import time

import numpy as np
from mobile_bundle.codecs import codec_by_name
from mobile_bundle.codecs.declaration import all_rules
from mobile_bundle.codecs.registry import codec_names
from mobile_bundle.native.linear import linear
from numpy.typing import NDArray

ROWS = (256, 2048)
COLUMNS = 1536
ROUNDS = 400


def aligned(data: bytes) -> NDArray[np.uint8]:
    """A copy that begins at a multiple of 64."""
    room = np.zeros(len(data) + 64, np.uint8)
    begin = -room.ctypes.data % 64
    room[begin : begin + len(data)] = np.frombuffer(data, np.uint8)
    return room[begin : begin + len(data)]


def main() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((1, COLUMNS)).astype(np.float32)
    codecs = {codec_by_name(name).format: codec_by_name(name) for name in reversed(codec_names())}
    costs = {rules.format: rules.decode_cost for rules in all_rules() if rules.decode_cost is not None}
    blobs = {
        (format, rows): aligned(
            codecs[format].encode(generator.standard_normal((rows, COLUMNS)).astype(np.float32)).to_bytes()
        )
        for format in costs
        for rows in ROWS
    }
    best = dict.fromkeys(blobs, float("inf"))
    for _ in range(ROUNDS):
        for (format, rows), blob in blobs.items():
            begin = time.perf_counter()
            linear(blob, x, rows)
            best[format, rows] = min(best[format, rows], time.perf_counter() - begin)
    seconds = {format: best[format, ROWS[1]] - best[format, ROWS[0]] for format in costs}
    unit = next(seconds[format] for format, cost in costs.items() if cost == 1)
    for format, cost in costs.items():
        print(f"{format.name.lower():16} {seconds[format] / unit:5.2f}  (declared: {cost})")


if __name__ == "__main__":
    main()
