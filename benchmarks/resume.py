"""How long `mobile-run serve` takes to save a state and to take it up again, beside reading the text.

    python benchmarks/resume.py BUNDLE [--tokens 1000] [--rounds 5] [--threads 2]

Prints the medians over the rounds, each of which begins a new process for the resuming."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def ask(command: list[str | Path], *requests: dict[str, Any]) -> list[dict[str, Any]]:
    """The events that end the requests, and what `prompt` says of the first."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        out = []
        for request in requests:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "error":
                    sys.exit(event["message"])
                if event["event"] in ("prompt", "state"):
                    out.append(event)
                if event["event"] in ("done", "state"):
                    break
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runner", type=Path, help="default: the bundle's for x86_64")
    options = parser.parse_args()
    runner = options.runner or options.bundle / "bin/x86_64/mobile-run"
    command: list[str | Path] = [runner, "serve", options.bundle, "--threads", str(options.threads)]
    prompt = {"prompt": " the" * options.tokens, "max_new_tokens": 1}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "a.state"))
        rounds = []
        for _ in range(options.rounds):
            read, saved = ask(command, prompt, {"save": path})
            (resumed,) = ask(command, {"resume": path})
            rounds.append((read["seconds"], saved["seconds"], resumed["seconds"]))
    reading, saving, resuming = (1000 * statistics.median(column) for column in zip(*rounds, strict=True))
    print(
        f"{saved['tokens']} tokens, {saved['bytes'] / 1e6:.1f} MB: read in {reading:.0f} ms, saved in {saving:.0f} ms, "
        f"resumed in {resuming:.1f} ms"
    )


if __name__ == "__main__":
    main()
