"""A device test with llama.cpp beside the bundle: same device, same limits, same sampler, turn by turn in one table.

    python llama_cpp.py BUNDLE --gguf MODEL.gguf --llama-bench PROGRAM --llama-simple PROGRAM [options of device-test]

The programs must run on the device: for the native lab, static ones for this machine (build_llama_cpp.sh beside this
file builds them from the llama-cpp-python source package). Speed is llama-bench's, at its defaults but for the threads;
the long context is decoding at that depth; loads are llama-simple's. A GGUF of the 1.5 B shape:
../llama_cpp/synthetic_gguf.py.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mobile_bundle.cli.common import run_command
from mobile_bundle.cli.device_test import add_arguments, run_test
from mobile_bundle.device.measuring.cells import ANSWER_TOKENS, Cell
from mobile_bundle.device.measuring.outcome import OK
from mobile_bundle.device.measuring.program import SHORT_PROMPT
from mobile_bundle.device.measuring.result import Run
from mobile_bundle.device.transport.places import Places
from mobile_bundle.errors import UserError
from mobile_bundle.files.inputs import parse_json

DEPTH_TOKENS = 32
"""Decoded at the depth of a full context, as many as the bundle's prompt leaves room for."""


class LlamaCpp:
    """llama-bench and llama-simple as a program of a device test."""

    name = "llama.cpp"
    peer = True

    def __init__(self, model: Path, bench: Path, simple: Path, threads: int) -> None:
        self._model, self._bench, self._simple = model, bench, simple
        self._threads = ["-t", str(threads)] if threads else []

    def files(self, places: Places) -> Mapping[str, Path]:
        return {self._at(places, path): path for path in (self._bench, self._simple, self._model)}

    def environment(self, places: Places) -> Mapping[str, str]:
        return {}

    def command(self, cell: Cell, places: Places, repetitions: int) -> list[str] | None:
        model = ["-m", self._at(places, self._model)]
        if cell.name in ("cold-load", "warm-load"):
            return [self._at(places, self._simple), *model, "-n", str(ANSWER_TOKENS), SHORT_PROMPT]
        bench = [self._at(places, self._bench), *model, *self._threads, "-o", "jsonl", "-r", str(repetitions)]
        if cell.name == "prefill":
            return [*bench, "-p", str(cell.tokens), "-n", "0"]
        if cell.name == "decode":
            return [*bench, "-p", "0", "-n", str(cell.tokens)]
        if cell.name in ("long-context", "pressure"):
            depth = str(cell.tokens - DEPTH_TOKENS)
            return [*bench, "-p", "0", "-n", str(DEPTH_TOKENS), "-d", depth]
        return None

    def read(self, cell: Cell, lines: Sequence[str], run: Run) -> None:
        for result in _results(lines):
            rates = result["samples_ts"]
            run.outcome, run.threads = OK, result["n_threads"]
            run.prefill, run.decode = (rates, []) if cell.name == "prefill" else ([], rates)
        times = {name: float(value) / 1000 for name, value in re.findall(TIMES, "\n".join(lines))}
        if "load" in times:
            # its load time ends with the first evaluation
            run.outcome, run.first_token_seconds = OK, times["load"]
            run.load_seconds = max(times["load"] - times["prompt eval"], 0.0)

    def _at(self, places: Places, path: Path) -> str:
        return f"{places.work}/peers/{path.name}"


def _results(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    """llama-bench's JSON lines; what else is printed, or a broken connection cut off, is passed over."""
    for line in lines:
        if line.startswith("{"):
            with contextlib.suppress(UserError):
                yield parse_json(line, "the line")


TIMES = r"(load|prompt eval) time =\s+([\d.]+) ms"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--llama-bench", type=Path, required=True)
    parser.add_argument("--llama-simple", type=Path, required=True)
    options = parser.parse_args()
    peer = LlamaCpp(options.gguf, options.llama_bench, options.llama_simple, options.threads)
    return run_command("llama_cpp.py", lambda: run_test(options, [peer]))


sys.exit(main())
