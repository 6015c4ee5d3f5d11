"""Decode and prefill speed of a bundle next to llama.cpp's on a model of the same shape, interleaved in one run.

    python compare.py BUNDLE MODEL.gguf LLAMA_BENCH [--rounds 5] [--threads 1 2]

Both files are put out of the page cache first, so that neither profits from how it was written. Every round measures
both programs on every test, one right after the other, so that a machine whose speed drifts disturbs both alike. Prints
the medians in tokens per second and the median of the rounds' ratios. For a bundle and a GGUF of the 1.5 B shape:
tests/support/checkpoints.py (write_synthetic) with `build-mobile-bundle --recipe bitnet`, and synthetic_gguf.py
beside this file. Run it on an otherwise idle machine.
"""

import argparse
import json
import statistics
import subprocess
from pathlib import Path

from mobile_bundle.evaluate.speed import measure_speed
from mobile_bundle.files.disk import drop_cached


def llama_speed(program: Path, model: Path, flag: str, tokens: int, threads: int) -> float:
    """Tokens per second by llama-bench: one warm-up, one repetition."""
    other = "-n" if flag == "-p" else "-p"
    command = [program, "-m", model, flag, str(tokens), other, "0", "-t", str(threads), "-r", "1", "-o", "json"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(process.stdout)[0]["avg_ts"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("llama_bench", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=48)
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
    for _ in range(options.rounds):
        for test in tests:
            ours[test].append(measure_speed(options.bundle, *test, 1).tokens_per_second.mean)
            theirs[test].append(llama_speed(options.llama_bench, options.model, *test))
    print("| test | threads | mobile-bundle t/s | llama.cpp t/s | ratio (min to max) |")
    print("|---|---:|---:|---:|---:|")
    for test in tests:
        flag, tokens, threads = test
        ratios = [a / b for a, b in zip(ours[test], theirs[test], strict=True)]
        print(
            f"| {'pp' if flag == '-p' else 'tg'}{tokens} | {threads} | {statistics.median(ours[test]):.1f} "
            f"| {statistics.median(theirs[test]):.1f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) |"
        )


main()
