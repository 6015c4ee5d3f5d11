"""Speed and memory of a bundle next to llama.cpp's on a model of the same shape, interleaved in one run.

    python compare.py BUNDLE MODEL.gguf LLAMA_BENCH [--rounds 5] [--threads 1 2] [--depth 2048]

Both files are put out of the page cache first, so that neither profits from how it was written. Every round measures
both programs on every test, one right after the other, so that a machine whose speed drifts disturbs both alike. Prints
the medians in tokens per second, the median of the rounds' ratios, and the highest resident set of a process (VmHWM),
file pages included. llama.cpp's default maps the file and copies what it computes with in another order.

With --depth both begin behind so many tokens (llama-bench reads them anew for every figure; a session of the library
keeps them, and its memory is not told).

For a bundle and a GGUF of the 1.5 B shape: tests/support/checkpoints.py (write_synthetic) with `build-mobile-bundle
--recipe bitnet`, and synthetic_gguf.py beside this file. Gemma-3-1B's shape at the same bytes: `synthetic_gguf.py
--gemma`, and `build-mobile-bundle` on the file that it writes. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from mobile_bundle.evaluate.speed import measure_speed
from mobile_bundle.files.disk import drop_cached
from mobile_bundle.native.engine import Model


def llama_speed(program: Path, model: Path, flag: str, tokens: int, threads: int, depth: int) -> tuple[float, int]:
    """(tokens per second, highest resident set in bytes) by llama-bench: one warm-up, one repetition."""
    other = "-n" if flag == "-p" else "-p"
    command = [program, "-m", model, flag, str(tokens), other, "0", "-t", str(threads), "-r", "1", "-o", "json"]
    command += ["-d", str(depth)] if depth else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{program} ended with {process.returncode}")
    return float(json.loads(output)[0]["avg_ts"]), 1024 * usage.ru_maxrss


class DeepSessions:
    """A session per number of threads, with `depth` tokens read: a context manager."""

    def __init__(self, bundle: Path, depth: int, room: int, threads: Sequence[int]) -> None:
        self._stack, self._depth = ExitStack(), depth
        model = self._stack.enter_context(Model(bundle / "weights.ptd"))
        self._ids = [int(i) for i in np.random.default_rng(0).integers(0, model.vocabulary, depth + room)]
        self._sessions = {n: self._stack.enter_context(model.session(depth + room, n)) for n in threads}
        for session in self._sessions.values():
            session.feed(self._ids[:depth])

    def __enter__(self) -> DeepSessions:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def speed(self, flag: str, tokens: int, threads: int) -> tuple[float, int]:
        """(tokens per second, 0): the second time, as llama-bench has its warm-up."""
        session, ids = self._sessions[threads], self._ids[self._depth : self._depth + tokens]
        for _ in range(2):
            session.rewind(self._depth)
            begin = time.perf_counter()
            for part in [ids] if flag == "-p" else [[token] for token in ids]:
                session.feed(part)
            seconds = time.perf_counter() - begin
        return tokens / seconds, 0


def shallow_speed(bundle: Path, flag: str, tokens: int, threads: int) -> tuple[float, int]:
    """(tokens per second, highest resident set in bytes) of the bundle's runner."""
    speed = measure_speed(bundle, flag, tokens, threads, 1)
    return speed.tokens_per_second.mean, speed.peak_rss_bytes


def bundle_bytes(bundle: Path) -> int:
    """Weights, tokenizer and manifest: what a GGUF file holds."""
    return sum((bundle / name).stat().st_size for name in ("weights.ptd", "tokenizer.bin", "manifest.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("llama_bench", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--depth", type=int, default=0, help="tokens in the cache at the beginning")
    options = parser.parse_args()
    tests = [
        (flag, tokens, threads)
        for threads in options.threads
        for flag, tokens in (("-p", options.prompt_tokens), ("-n", options.new_tokens))
    ]
    for path in (options.bundle / "weights.ptd", options.model):
        drop_cached(path)
    ours: dict[tuple[str, int, int], list[float]] = {test: [] for test in tests}
    theirs: dict[tuple[str, int, int], list[float]] = {test: [] for test in tests}
    our_peak = dict.fromkeys(tests, 0)
    their_peak = dict.fromkeys(tests, 0)
    room = max(options.prompt_tokens, options.new_tokens)
    with ExitStack() as stack:
        measure = functools.partial(shallow_speed, options.bundle)
        if options.depth:
            measure = stack.enter_context(DeepSessions(options.bundle, options.depth, room, options.threads)).speed
        for _ in range(options.rounds):
            for test in tests:
                rate, peak = measure(*test)
                ours[test].append(rate)
                our_peak[test] = max(our_peak[test], peak)
                rate, peak = llama_speed(options.llama_bench, options.model, *test, options.depth)
                theirs[test].append(rate)
                their_peak[test] = max(their_peak[test], peak)
    print(f"bundle {bundle_bytes(options.bundle) / 1e6:.1f} MB, GGUF {options.model.stat().st_size / 1e6:.1f} MB\n")
    print("| test | threads | mobile-bundle t/s | llama.cpp t/s | ratio (min to max) | peak MB | llama.cpp peak MB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for test in tests:
        flag, tokens, threads = test
        name = f"{'pp' if flag == '-p' else 'tg'}{tokens}" + (f"@{options.depth}" if options.depth else "")
        ratios = [a / b for a, b in zip(ours[test], theirs[test], strict=True)]
        peak = f"{our_peak[test] / 1e6:.1f}" if our_peak[test] else ""
        print(
            f"| {name} | {threads} | {statistics.median(ours[test]):.1f} | {statistics.median(theirs[test]):.1f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {peak} "
            f"| {their_peak[test] / 1e6:.1f} |"
        )


main()
