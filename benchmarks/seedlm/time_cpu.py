"""SeedLM's exact search on one processor core: AVX2 and scalar C side by side in one run, against the plain search that
evaluates every seed (NumPy), all with the same result.

    PYTHONPATH=toolchain python benchmarks/seedlm/time_cpu.py
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
from mobile_bundle.codecs.seedlm_search import SHAPES, Found, search_reference, tables
from mobile_bundle.errors import UserError
from mobile_bundle.native.search import search_seedlm
from numpy.typing import NDArray

BLOCKS = {"avx2": 2048, "scalar": 128, "every_seed": 16}


def microseconds(search: Callable[[NDArray[np.float32]], Found], blocks: NDArray[np.float32]) -> float:
    """Processor time of one block, the best of three runs."""
    times = []
    for _ in range(3):
        start = time.process_time()
        search(blocks)
        times.append(time.process_time() - start)
    return min(times) / len(blocks) * 1e6


def main() -> None:
    for bits, (length, _) in SHAPES.items():
        blocks = (np.random.default_rng(0).standard_normal((max(BLOCKS.values()), length)) * 32767).astype(np.float32)
        times = {"every_seed": microseconds(lambda b, k=bits: search_reference(b, k), blocks[: BLOCKS["every_seed"]])}
        for kernels in ("scalar", "avx2"):
            try:
                times[kernels] = microseconds(
                    lambda b, k=bits, name=kernels: search_seedlm(b, tables(k), kernels=name), blocks[: BLOCKS[kernels]]
                )
            except UserError:  # no AVX2 here
                continue
        evaluated = search_seedlm(blocks, tables(bits)).evaluated / len(blocks)
        fastest = min(times.values())
        print(
            json.dumps(
                {
                    "bits": bits,
                    "seeds_evaluated_per_block": round(evaluated, 1),
                    "us_per_block": {name: round(value, 1) for name, value in times.items()},
                    "times_the_fastest": {name: round(value / fastest, 1) for name, value in times.items()},
                }
            )
        )


if __name__ == "__main__":
    main()
