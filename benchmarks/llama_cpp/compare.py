"""Speed and memory of a bundle next to llama.cpp's on a model of the same shape, interleaved in one run.

    python compare.py BUNDLE MODEL.gguf LLAMA_BENCH [--rounds 5] [--threads 1 2]

Both files are put out of the page cache first, so that neither profits from how it was written. Every round measures
both programs on every test, one right after the other, so that a machine whose speed drifts disturbs both alike. Prints
the medians in tokens per second, the median of the rounds' ratios, and the highest resident set of a process (VmHWM),
file pages included. llama.cpp's default maps the file and copies what it computes with in another order.

For a bundle and a GGUF of the 1.5 B shape: tests/support/checkpoints.py (write_synthetic) with `build-mobile-bundle
--recipe bitnet`, and synthetic_gguf.py beside this file. Gemma-3-1B's shape at the same bytes: `synthetic_gguf.py
--gemma`, and `build-mobile-bundle` on the file that it writes. Run it on an otherwise idle machine.
"""

import argparse
import json
import os
import statistics
import subprocess
from pathlib import Path

from mobile_bundle.evaluate.speed import measure_speed
from mobile_bundle.files.disk import drop_cached


def llama_speed(program: Path, model: Path, flag: str, tokens: int, threads: int) -> tuple[float, int]:
    """(tokens per second, highest resident set in bytes) by llama-bench: one warm-up, one repetition."""
    other = "-n" if flag == "-p" else "-p"
    command = [program, "-m", model, flag, str(tokens), other, "0", "-t", str(threads), "-r", "1", "-o", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{program} ended with {process.returncode}")
    return float(json.loads(output)[0]["avg_ts"]), 1024 * usage.ru_maxrss


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
    for _ in range(options.rounds):
        for test in tests:
            speed = measure_speed(options.bundle, *test, 1)
            ours[test].append(speed.tokens_per_second.mean)
            our_peak[test] = max(our_peak[test], speed.peak_rss_bytes)
            rate, peak = llama_speed(options.llama_bench, options.model, *test)
            theirs[test].append(rate)
            their_peak[test] = max(their_peak[test], peak)
    print(f"bundle {bundle_bytes(options.bundle) / 1e6:.1f} MB, GGUF {options.model.stat().st_size / 1e6:.1f} MB\n")
    print("| test | threads | mobile-bundle t/s | llama.cpp t/s | ratio (min to max) | peak MB | llama.cpp peak MB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for test in tests:
        flag, tokens, threads = test
        ratios = [a / b for a, b in zip(ours[test], theirs[test], strict=True)]
        print(
            f"| {'pp' if flag == '-p' else 'tg'}{tokens} | {threads} | {statistics.median(ours[test]):.1f} "
            f"| {statistics.median(theirs[test]):.1f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) | {our_peak[test] / 1e6:.1f} | {their_peak[test] / 1e6:.1f} |"
        )


main()
