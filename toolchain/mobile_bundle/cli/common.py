"""What every command shares: errors in one line, progress, JSON, sizes for people."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import logging
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from tqdm import tqdm  # type: ignore[import-untyped]

from mobile_bundle.api import sizes
from mobile_bundle.api.build import find_recipe, log
from mobile_bundle.cli.parameters import with_options
from mobile_bundle.corpus.languages import LANGUAGES
from mobile_bundle.errors import UserError, printable
from mobile_bundle.export.formats import FORMATS
from mobile_bundle.pipeline.request import Step
from mobile_bundle.planning.recipe import Recipe


def run_command(name: str, work: Callable[[], int]) -> int:
    """Runs a command, its arguments included; an error becomes one line on standard error and status 1, never a
    traceback. So does a signal that asks it to end: what is unfinished is removed first."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold bytes that are no text
    try:
        with _signals_as_ctrl_c():
            status = work()
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except UserError as error:
        _say(f"{name}: {with_options(str(error))}")
    except BrokenPipeError:
        _drop_output()  # the reader (head, less) went away: that is its right
    except KeyboardInterrupt:
        _say(f"{name}: interrupted")
    except OSError as error:
        if error.filename is None:
            _drop_output()  # what could not be written would be tried again at exit
        _say(f"{name}: {UserError(_system_error(error))}")
    except MemoryError:
        _say(f"{name}: out of memory; close other programs, or use a machine with more memory")
    except Exception as error:
        _say(f"{name}: {UserError(_internal_error(error))}")
    return 1


@contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does, unless whoever started it had them ignored (nohup)."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()  # no other thread may set handlers
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if main and signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads standard error either
        print(line, file=sys.stderr, flush=True)


def _drop_output() -> None:
    """Keeps Python from complaining at exit that standard output cannot be written."""
    with contextlib.suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _system_error(error: OSError) -> str:
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    if not name and error.errno == errno.ENOENT:
        return "the current folder no longer exists; change to one that does"
    return f"{name}: {error.strerror or error}" if name else str(error.strerror or error)


def _internal_error(error: Exception) -> str:
    """The message of an unexpected exception, with the place where it happened, so that it can be reported."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"internal error in {where}: {type(error).__name__}: {error}; please report it together with the input"


class Parser(argparse.ArgumentParser):
    """Bad usage is one line, too, without the list of all options."""

    def error(self, message: str) -> NoReturn:
        """Ends with status 2."""
        self.exit(2, f"{self.prog}: {printable(message)}\n")


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number of at least 1")
    return value


def recipe_argument(text: str) -> Recipe:
    """An argparse type: a recipe's name, or "recipe+codec" as `inspect` prints it, the codec being the embedding's; or
    a recipe file."""
    try:
        return find_recipe(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(with_options(str(error))) from error


def _languages(text: str) -> list[str]:
    names = [each.strip() for each in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a comma-separated list of {', '.join(LANGUAGES)}")
    return names


def output_path(text: str) -> Path:
    """An argparse type: a path to write to. Nothing, as a shell's unset variable is, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; give a name")
    return Path(text)


def vocabulary_options(parser: argparse.ArgumentParser) -> None:
    """--vocabulary-from and --languages."""
    parser.add_argument(
        "--vocabulary-from",
        type=Path,
        action="append",
        default=[],
        metavar="TEXT",
        help="a text (UTF-8, or .xz): keep bytes, special tokens and the tokens that it needs, and no others. The text "
        "gets the same tokens as before; other text takes more and smaller ones. May be repeated",
    )
    parser.add_argument(
        "--languages",
        type=_languages,
        default=[],
        metavar="LIST",
        help=f"the same with texts that ship with the tool; a comma-separated list of {', '.join(LANGUAGES)}",
    )


def revision_option(parser: argparse.ArgumentParser) -> None:
    """Adds --revision, for commands that take a model of the hub."""
    parser.add_argument(
        "--revision", metavar="NAME", help="branch, tag or commit of a model of the hub (default: its main branch)"
    )


def formats_argument(text: str) -> tuple[str, ...]:
    """An argparse type: a comma-separated list of export formats."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"{name!r}: must be a comma-separated list of {', '.join(FORMATS)}")
    return names


_NOT_TEXTS = ("true", "false", "none", "null", "yes", "no", "on", "off")
"""Words that look like a JSON value but are none. As strings they would all be true in a template."""


def chat_option(text: str) -> tuple[str, Any]:
    """An argparse type: NAME=VALUE, where VALUE is JSON or else a string."""
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: must be NAME=VALUE, such as enable_thinking=false")
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        if value.strip().lower() in _NOT_TEXTS or value.lstrip()[:1] in ("[", "{", '"'):
            raise argparse.ArgumentTypeError(
                f"{text!r}: the value is not JSON: write true, false, null, a number, or a string without quotes"
            ) from None
        return name, value
    if _has_fraction(parsed):
        raise argparse.ArgumentTypeError(f"{text!r}: chat templates do not support numbers with fractions")
    return name, parsed


def _has_fraction(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_has_fraction, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float)


def byte_size(text: str) -> int:
    """An argparse type: 480MB, 1.5GB, 400MiB or a number of bytes."""
    try:
        return sizes.byte_size(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive_number(text: str) -> float:
    """An argparse type: a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number above 0")
    return value


def number_from_zero(text: str) -> float:
    """An argparse type: a finite number, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number, 0 or more")
    return value


def print_json(data: Any) -> None:
    """One JSON document on standard output, in ASCII where that has no other characters."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(data, indent=2)
    print(text)


_WORTH_A_WORD = 5.0
"""Seconds."""


class Progress:
    """A bar on a terminal; elsewhere a plain line at every tenth of the work. Both say how long the rest will take, at
    the pace so far. Always on standard error."""

    def __init__(self, title: str, unit: str) -> None:
        self._title, self._unit = title, unit
        self._bar: tqdm[Any] | None = None
        self._tenth = 0
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int, total: int, what: str = "") -> None:
        """Tells that `done` of `total` units are done."""
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(total=total, desc=self._title, unit=self._unit, unit_scale=True, leave=False)
            self._bar.set_postfix_str(what, refresh=False)
            self._bar.update(done - self._bar.n)
            if done >= total:
                self._bar.close()
        elif done * 10 // total > self._tenth:
            self._tenth = done * 10 // total
            print(f"{self._title}: {self._tenth * 10} %{self._left(done, total)}", file=sys.stderr, flush=True)

    def _left(self, done: int, total: int) -> str:
        """How long the rest will take, where that is worth a word."""
        now = time.monotonic()
        if self._first is None:
            self._first = done, now
        before, then = self._first
        seconds = (now - then) / (done - before) * (total - done) if done > before else 0.0
        if seconds < _WORTH_A_WORD:
            return ""
        return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"


class Steps:
    """A Progress for each stage of what the library does."""

    _UNITS: ClassVar = {
        "calibrating": "step",
        "perplexity": "window",
        "comparing": "window",
        "downloading": "B",
        "writing a calibration text": "token",
        "downloading the original": "B",
    }

    def __init__(self) -> None:
        self._stages: dict[str, Progress] = {}

    def __call__(self, step: Step) -> None:
        """Takes every step."""
        if step.stage not in self._stages:
            self._stages[step.stage] = Progress(step.stage, self._UNITS.get(step.stage, "w"))
        self._stages[step.stage](step.done, step.total, step.tensor)


class Told(logging.Handler):
    """Prints what the library logs on standard error, a line each, while it is the context: `with Told() as told`.
    lines: what was printed."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record."""
        line = printable(record.getMessage())
        self.lines.append(line)
        print(with_options(line), file=sys.stderr)

    def __enter__(self) -> Told:
        log.addHandler(self)
        log.setLevel(logging.INFO)
        return self

    def __exit__(self, *_: object) -> None:
        log.removeHandler(self)
