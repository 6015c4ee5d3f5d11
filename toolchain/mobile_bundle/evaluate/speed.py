"""Speed and memory of a bundle. Its runner measures itself in a fresh process."""

from __future__ import annotations

import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mobile_bundle.errors import RuntimeFailure
from mobile_bundle.events.kinds import BenchEvent, ErrorEvent
from mobile_bundle.events.parse import read_output
from mobile_bundle.runtimes import bundle_argument, runner_command, runner_environment


@dataclass(frozen=True)
class Rate:
    """Tokens per second over the repetitions; sd: sample standard deviation, 0 for one repetition."""

    mean: float
    sd: float


@dataclass(frozen=True)
class Speed:
    """One test. load_seconds and first_token_seconds count from the start of the process; bytes from /proc."""

    runtime: str
    test: str
    threads: int
    tokens_per_second: Rate
    load_seconds: float
    first_token_seconds: float
    peak_rss_bytes: int
    peak_anon_bytes: int
    major_faults: int


def measure_speed(
    bundle: Path, flag: str, tokens: int, threads: int, repetitions: int, runtime: str = "native"
) -> Speed:
    """flag "-p": prefill of `tokens` tokens; "-n": decode. threads 0: the runner's default. UserError if it fails."""
    command = [
        *runner_command(bundle, runtime),
        "bench",
        bundle_argument(bundle),
        flag,
        str(tokens),
        "-r",
        str(repetitions),
        "--json",
    ]
    if threads:
        command += ["--threads", str(threads)]
    process = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, env=runner_environment(runtime))
    for event in read_output(process.stdout):
        if isinstance(event, ErrorEvent):
            raise RuntimeFailure(event.message)
        if isinstance(event, BenchEvent):
            rates = event.tokens_per_second
            return Speed(
                runtime=runtime,
                test=event.test,
                threads=event.threads,
                tokens_per_second=Rate(statistics.mean(rates), statistics.stdev(rates) if len(rates) > 1 else 0.0),
                load_seconds=event.load_seconds,
                first_token_seconds=event.first_token_seconds,
                peak_rss_bytes=event.memory.peak_rss_bytes,
                peak_anon_bytes=event.memory.peak_anon_bytes,
                major_faults=event.memory.major_faults,
            )
    raise RuntimeFailure(
        f"{Path(command[0]).name} ended with status {process.returncode} and no result: "
        f"{process.stderr.decode('utf-8', 'replace').strip()}"
    )
