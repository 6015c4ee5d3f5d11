"""A program to measure: how it runs each cell, and how its output is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from mobile_bundle.device.measuring.cells import ANSWER_TOKENS, LOOKUP, Cell, Settings
from mobile_bundle.device.measuring.result import Run, take_runner_lines
from mobile_bundle.device.transport.places import Places

SHORT_PROMPT = "The history of the city"
"""The prompt of the load cells: a few tokens in every tokenizer."""


class MeasuredProgram(Protocol):
    """A program on the device. peer: somebody else's, measured for comparison and not judged."""

    @property
    def name(self) -> str: ...

    @property
    def peer(self) -> bool: ...

    def files(self, places: Places) -> Mapping[str, Path]:
        """{absolute path on the device: local file} that it needs besides the bundle."""

    def command(self, cell: Cell, places: Places, repetitions: int) -> list[str] | None:
        """The command line, None where it has no answer to that cell. repetitions: of the test in one process."""

    def environment(self, places: Places) -> Mapping[str, str]:
        """Variables that it needs."""

    def read(self, cell: Cell, lines: Sequence[str], run: Run) -> None:
        """Takes what it said into the run: its figures, and as the outcome OK where it said its last word.

        lines: of its standard output and error. Raises EventError where they are not as they must be."""


class MobileRun:
    """mobile-run of one runtime. libraries: {name on the device: local file} that it loads at run time.
    settings: threads, context and type of KV cache. force: past the runner's own check of available memory."""

    peer = False

    def __init__(
        self, runtime: str, program: Path, libraries: Mapping[str, Path], settings: Settings, force: bool
    ) -> None:
        self.name = runtime
        self._program = program
        self._libraries = libraries
        self._options = ["--json"]
        self._options += ["--threads", str(settings.threads)] if settings.threads else []
        self._options += ["--kv", settings.kv] if runtime == "native" else []
        self._options += ["--force"] if force else []
        self._context = ["--context", str(settings.context)] if settings.context else []

    def files(self, places: Places) -> Mapping[str, Path]:
        local = {self._path(places): self._program}
        return {**local, **{f"{places.tools}/{name}": path for name, path in self._libraries.items()}}

    def environment(self, places: Places) -> Mapping[str, str]:
        return {"LD_LIBRARY_PATH": places.tools} if self._libraries else {}

    def command(self, cell: Cell, places: Places, repetitions: int) -> list[str] | None:
        bench = [self._path(places), "bench", places.bundle, *self._options]
        if cell.name == "prefill":
            return [*bench, "-p", str(cell.tokens), "-r", str(repetitions)]
        if cell.name in ("decode", "soak"):
            return [*bench, "-n", str(cell.tokens), "-r", str(repetitions)]
        if cell.name in ("save", "resume"):  # which other runtimes cannot
            serve = [self._path(places), "serve", places.bundle, *self._options, *self._context]
            return serve if self.name == "native" else None
        generate = [self._path(places), "generate", places.bundle, *self._options, *self._context, "--ignore-eos"]
        if cell.name in ("cold-load", "warm-load"):
            return [*generate, "--prompt", SHORT_PROMPT, "--max-new-tokens", str(ANSWER_TOKENS)]
        if cell.name == "cancel":
            return [*generate, "--prompt", SHORT_PROMPT, "--max-new-tokens", str(cell.tokens)]
        if cell.name == "lookup" and self.name != "native":
            return None
        lookup = ["--lookup", str(LOOKUP)] if cell.name == "lookup" else []
        # one token more than there is room for: the answer ends where the context does
        return [*generate, *lookup, "--prompt-file", places.prompt, "--max-new-tokens", str(cell.tokens)]

    def read(self, cell: Cell, lines: Sequence[str], run: Run) -> None:
        take_runner_lines(run, lines)

    def _path(self, places: Places) -> str:
        if self.name == "native":
            return f"{places.bundle}/bin/{places.abi}/mobile-run"
        return f"{places.tools}/{self._program.name}"
