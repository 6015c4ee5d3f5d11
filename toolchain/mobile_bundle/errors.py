"""The errors that a person can mend.

    UserError                 error           the base of all
    ├─ ArgumentError          argument        an argument is invalid: an unknown recipe, a context that is too long
    ├─ InputError             input           a checkpoint, bundle or text cannot be used: missing, damaged, foreign
    │  └─ UnsupportedError    unsupported     it is valid, but of a kind that is not supported
    ├─ BudgetError            budget          no plan keeps to the limits
    ├─ OutputError            output          the output's name is taken, or another build is writing it
    ├─ ResumableError         resumable       stopped from outside (full disk, killed worker); can continue
    ├─ InstallationError      installation    a package, library or program is not installed
    ├─ DeviceError            device-error    a device or its connection failed (device/transport/errors.py)
    ├─ RuntimeFailure         runtime         a model failed while it ran
    │  ├─ OutOfMemory         memory          ... because memory is short
    │  └─ NotFinite           numeric         ... because it computes infinities or NaN
    └─ Cancelled              cancelled       the caller cancelled it

Each has a `code`, which is stable, a `message` (what is wrong) and a `remedy` (what to do; "" where the message says
it). A name in backticks is a parameter's: `max_size`. The command line prints its own option for it
(cli/parameters.py).
"""

from __future__ import annotations

from collections.abc import Mapping

MOST_CHARACTERS = 600
_HEAD = 350
"""Of a longer message, the characters kept from its start; the rest of MOST_CHARACTERS comes from its end."""


class UserError(Exception):
    """The base: one line that says what is wrong and what to do; a command prints it and exits with status 1.

    str() is the message and the remedy. Control characters and halves of surrogate pairs, which a hostile file could
    bring in through a name, become question marks. A line of more than MOST_CHARACTERS is cut in the middle: what is
    wrong stands at its start, what to do at its end."""

    code = "error"
    _joint = "; "

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message, self.remedy = printable(message), printable(remedy)
        line = f"{message}{self._joint}{remedy}" if remedy else message
        if len(line) > MOST_CHARACTERS:
            line = f"{line[:_HEAD]} ... {line[_HEAD + 5 - MOST_CHARACTERS :]}"
        super().__init__(printable(line))


class ArgumentError(UserError):
    """An argument is invalid."""

    code = "argument"


class InputError(UserError):
    """A checkpoint, bundle, text or other file cannot be used: it is missing, damaged or foreign."""

    code = "input"


class UnsupportedError(InputError):
    """The input is valid, but of a kind that is not supported."""

    code = "unsupported"


class BudgetError(UserError):
    """No plan keeps to a limit.

    limit: "max_size", "max_ram", "max_perplexity" or "min_speed"; asked: its value (bytes, bytes, perplexity, speed);
    best: what can be had at best, in the same unit; parts: of best, bytes by file, for max_size."""

    code = "budget"

    def __init__(
        self,
        message: str,
        remedy: str = "",
        *,
        limit: str = "",
        asked: float = 0,
        best: float = 0,
        parts: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(message, remedy)
        self.limit, self.asked, self.best, self.parts = limit, asked, best, dict(parts or {})


class OutputError(UserError):
    """The output's name is taken by something else, or another build is writing it."""

    code = "output"


class ResumableError(UserError):
    """Work was stopped by something outside its input (a full disk, a killed worker); the same call continues."""

    code = "resumable"


class InstallationError(UserError):
    """A package, library or program is not installed, or not in the version that is needed."""

    code = "installation"
    _joint = ": "


class DeviceError(UserError):
    """A device, or the way to it, failed."""

    code = "device-error"


class RuntimeFailure(UserError):
    """A model, or the program that runs it, failed while it ran."""

    code = "runtime"


class OutOfMemory(RuntimeFailure):
    """There is not enough memory."""

    code = "memory"


class NotFinite(RuntimeFailure):
    """The model computes values that are infinite or NaN."""

    code = "numeric"


class Cancelled(UserError):
    """The caller cancelled the work. What a build had finished is kept; the same call continues from there."""

    code = "cancelled"

    def __init__(self, message: str = "cancelled") -> None:
        super().__init__(message)


def printable(text: str) -> str:
    """The text on one line and valid in UTF-8: every character that is not printable becomes a question mark."""
    return "".join(c if c.isprintable() else "?" for c in text)
