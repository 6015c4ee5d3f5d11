"""A bundle on native, ExecuTorch and ONNX Runtime, and peers beside it: speed and memory, interleaved in one run.

    python compare.py BUNDLE [--rounds 5] [--threads 1 2] [--context 1024] [--onnx-peer NAME=DIR ...]
                      [--executorch-peer NAME=FILE.pte ...]

BUNDLE: built with --formats native,executorch,onnx. Peers: what onnx_peer.py and executorch_peer.py beside this file
make. Every round measures every program on every test in a fresh process, one right after the other, so that a machine
whose speed drifts disturbs all alike. Speeds are medians; ratios are medians of the rounds' ratios to native. The floor
is what a process of that runtime takes beside the bundle and the session, as its runner predicts it (for the Python
peer: what is resident when all imports are done); "over" is the peak without it.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from mobile_bundle.files.disk import drop_cached
from mobile_bundle.runtimes import runner_command, runner_environment


@dataclass
class Subject:
    """A program to measure, and what was measured: by test, a figure a round."""

    name: str
    runtime: str
    path: Path
    speeds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    loads: list[float] = field(default_factory=list)
    peak: int = 0
    anonymous: int = 0
    floor: int = 0

    def measure(self, runner_bundle: Path, flag: str, tokens: int, threads: int, context: int) -> None:
        key = f"{'pp' if flag == '-p' else 'tg'}{tokens} t{threads}"
        if self.runtime == "executorch-python":
            script = Path(__file__).with_name("executorch_peer.py")
            counts = ["-p", str(tokens), "-n", "0"] if flag == "-p" else ["-p", "0", "-n", str(tokens)]
            command = [sys.executable, str(script), "bench", str(self.path), *counts, "-r", "1", "-t", str(threads)]
            process = subprocess.run(command, capture_output=True, text=True, check=True)
            (result,) = json.loads(process.stdout[process.stdout.index("[") :])
            self.note(key, result["tokens_per_second"]["mean"], result["load_seconds"], result["memory"])
            self.floor = max(self.floor, result["floor"]["peak_anon_bytes"] + result["floor"]["file_bytes"])
            return
        command = [*runner_command(runner_bundle, self.runtime), "bench", str(self.path), flag, str(tokens), "-r", "1",
                   "--json", "--threads", str(threads), "--context", str(context)]  # fmt: skip
        process = subprocess.run(command, capture_output=True, text=True, env=runner_environment(self.runtime))
        events = {event["event"]: event for event in map(json.loads, process.stdout.splitlines())}
        if "bench" not in events:
            raise SystemExit(f"{self.name}: {events.get('error', process.stderr)}")
        bench, predicted = events["bench"], events["load"]["predicted"]
        self.note(key, bench["tokens_per_second"][0], bench["load_seconds"], bench["memory"])
        self.floor = max(self.floor, predicted["peak_bytes"] - predicted["file_bytes"] - predicted["anon_bytes"])

    def note(self, key: str, speed: float, load: float, memory: dict[str, int]) -> None:
        self.speeds[key].append(speed)
        self.loads.append(load)
        self.peak = max(self.peak, memory["peak_rss_bytes"])
        self.anonymous = max(self.anonymous, memory["peak_anon_bytes"])


def named(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    return name, Path(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--onnx-peer", type=named, action="append", default=[])
    parser.add_argument("--executorch-peer", type=named, action="append", default=[])
    options = parser.parse_args()
    native = Subject("native", "native", options.bundle)
    subjects = [native, *(Subject(name, name, options.bundle) for name in ("executorch", "onnx"))]
    subjects += [Subject(name, "onnx", path) for name, path in options.onnx_peer]
    subjects += [Subject(name, "executorch-python", path) for name, path in options.executorch_peer]
    tests = [
        (flag, tokens, threads)
        for threads in options.threads
        for flag, tokens in (("-p", options.prompt_tokens), ("-n", options.new_tokens))
    ]
    drop_cached(options.bundle / "weights.ptd")
    for number in range(options.rounds):
        for test in tests:
            for subject in subjects if number % 2 == 0 else reversed(subjects):
                subject.measure(options.bundle, *test, options.context)
    keys = list(native.speeds)
    speeds = " | ".join(f"{key} t/s (ratio)" for key in keys)
    print(f"| program | {speeds} | load s | peak MB | over MB | anonymous MB | floor MB |")
    print("|---|" + "---:|" * (len(keys) + 5))
    for subject in subjects:
        cells = []
        for key in keys:
            ratios = [a / b for a, b in zip(subject.speeds[key], native.speeds[key], strict=True)]
            cells.append(f"{statistics.median(subject.speeds[key]):.1f} ({statistics.median(ratios):.2f})")
        sizes = (subject.peak, subject.peak - subject.floor, subject.anonymous, subject.floor)
        print(
            f"| {subject.name} | {' | '.join(cells)} | {statistics.median(subject.loads):.3f} "
            f"| {' | '.join(f'{size / 1e6:.1f}' for size in sizes)} |"
        )


main()
