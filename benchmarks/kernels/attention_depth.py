"""What a full KV cache costs: tokens per second with nothing and with many tokens in the cache, and their ratio.

    python benchmarks/kernels/attention_depth.py NAME.mbundle [--depth 2048] [--threads 1 2] [--kv int8] [--rounds 5]
        [--kernels avx2]

An empty and a full session take turns; the fastest round of each counts. A prompt's speed is that of 128 tokens fed at
once.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from mobile_bundle.native.engine import KV_TYPES, Model, Session

PROMPT = 128
DECODED = 24


def rates(session: Session, ids: list[int], state: Path | None) -> tuple[float, float]:
    """Tokens per second behind the tokens of a state (int4 cannot go back to any place): of decoding and of reading a
    prompt."""

    def begin_anew() -> None:
        if state:
            session.resume(state)
        else:
            session.rewind(0)

    begin_anew()
    begin = time.perf_counter()
    for token in ids[:DECODED]:
        session.feed([token])
    decode = DECODED / (time.perf_counter() - begin)
    begin_anew()
    begin = time.perf_counter()
    session.feed(ids[:PROMPT])
    return decode, PROMPT / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--depth", type=int, default=2048)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--kv", choices=KV_TYPES, nargs="+", default=["int8"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kernels", help="the kernel table; default: the processor's best")
    options = parser.parse_args()
    print(f"{'kv':>5} {'threads':>7} {'tg@0':>8} {'tg@depth':>9} {'kept':>5} {'pp@0':>8} {'pp@depth':>9} {'kept':>5}")
    with Model(options.bundle / "weights.ptd", kernels=options.kernels) as model:
        generator = np.random.default_rng(0)
        ids = [int(i) for i in generator.integers(0, model.vocabulary, options.depth + PROMPT)]
        for kv in options.kv:
            for threads in options.threads:
                with (
                    tempfile.TemporaryDirectory() as folder,
                    model.session(options.depth + PROMPT, threads, kv_type=kv) as full,
                    model.session(PROMPT, threads, kv_type=kv) as empty,
                ):
                    state = Path(folder) / "depth.state"
                    full.feed(ids[: options.depth])
                    full.save(ids[: options.depth], state)
                    pairs = [
                        (rates(empty, ids, None), rates(full, ids[options.depth :], state))
                        for _ in range(options.rounds)
                    ]
                s, d = np.max(pairs, axis=0)
                print(
                    f"{kv:>5} {threads:>7} {s[0]:>8.1f} {d[0]:>9.1f} {d[0] / s[0]:>5.2f} {s[1]:>8.1f} {d[1]:>9.1f} "
                    f"{d[1] / s[1]:>5.2f}"
                )


if __name__ == "__main__":
    main()
