"""How long SeedLM's exact search takes on a GPU, and that it finds what the definition finds.

Needs NumPy, torch and this repository's toolchain/ on PYTHONPATH; nothing is built. First a few blocks (Gaussian ones,
and awkward ones) are searched by the NumPy definition and by torch, which must agree bit for bit; then Gaussian blocks
are searched for a while, and the rate is extrapolated to the 164 million blocks of a 1.5 B body at 4 bits.

    PYTHONPATH=toolchain python benchmarks/seedlm/time_gpu.py [--device cuda] [--seconds 20]
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
import torch
from mobile_bundle.codecs.seedlm_gpu import BATCH, search_torch
from mobile_bundle.codecs.seedlm_search import SHAPES, search_reference

BODY_WEIGHTS = 1_310_195_712  # Qwen2.5-1.5B without its embedding
REFERENCE_BLOCKS = 64


def equal_to_reference(bits: int, device: str) -> bool:
    """Blocks of several sizes, zeros and an outlier."""
    generator = np.random.default_rng(1)
    blocks = generator.standard_normal((REFERENCE_BLOCKS, SHAPES[bits][0])) * 32767
    blocks[-10:] *= np.geomspace(1e-3, 1e3, 10)[:, None]
    blocks[0] = 0
    blocks[1, 1:] = 0
    blocks = blocks.astype(np.float32)
    found, expected = search_torch(blocks, bits, device), search_reference(blocks, bits)
    return all(
        np.array_equal(getattr(found, name), getattr(expected, name)) for name in ("seeds", "exponents", "coefficients")
    )


def blocks_per_second(bits: int, device: str, seconds: float) -> float:
    """The search alone, tables made and the device warm."""
    batch = BATCH.get(torch.device(device).type, BATCH["cpu"])
    generator = np.random.default_rng(2)
    blocks = (generator.standard_normal((4 * batch, SHAPES[bits][0])) * 32767).astype(np.float32)
    search_torch(blocks, bits, device)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        search_torch(blocks, bits, device)  # ends on the host, so the clock waits for the device
        done += len(blocks)
    return done / (time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    name = torch.cuda.get_device_name(arguments.device) if arguments.device.startswith("cuda") else "CPU"
    failed = False
    for bits, (length, _) in SHAPES.items():
        equal = equal_to_reference(bits, arguments.device)
        rate = blocks_per_second(bits, arguments.device, arguments.seconds)
        failed |= not equal
        print(
            json.dumps(
                {
                    "device": name,
                    "torch": torch.__version__,
                    "bits": bits,
                    "equal_to_reference": equal,
                    "blocks_per_second": round(rate),
                    "body_1.5b_minutes": round(BODY_WEIGHTS / length / rate / 60, 2),
                }
            ),
            flush=True,
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
