"""The hierarchy of errors: documented, stable, and free of the command line's options."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import mobile_bundle
import pytest
from mobile_bundle import errors
from mobile_bundle.cli.parameters import with_options
from mobile_bundle.native.library import check
from support.paths import ROOT

SOURCES = ROOT / "toolchain/mobile_bundle"


def kinds(base: type[errors.UserError] = errors.UserError) -> Iterator[type[errors.UserError]]:
    yield base
    for kind in base.__subclasses__():
        yield from kinds(kind)


OWN = [kind for kind in kinds() if kind.__module__ == "mobile_bundle.errors"]


def test_every_kind_is_documented_with_its_code():
    listed = dict(re.findall(r"(\w+) {2,}([a-z-]+)  ", errors.__doc__ or ""))
    assert listed == {kind.__name__: kind.code for kind in OWN}
    assert len({kind.code for kind in OWN}) == len(OWN) > 10


@pytest.mark.parametrize("kind", OWN)
def test_a_process_may_hand_them_on(kind):
    error = kind() if kind is errors.Cancelled else kind("what\nis wrong", "what to do")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.message, again.remedy) == (str(error), error.message, error.remedy)
    assert "\n" not in str(again)


def test_the_line_is_message_and_remedy():
    assert str(errors.InputError("a is damaged", "download it")) == "a is damaged; download it"
    assert str(errors.InstallationError("needs torch", "pip install x")) == "needs torch: pip install x"
    long = errors.InputError("w" * 2000, "d" * 100)
    assert len(str(long)) == errors.MOST_CHARACTERS
    assert str(long).endswith("d" * 100)


def test_a_status_of_the_library_has_its_kind():
    expected = {
        1: errors.ArgumentError,
        2: errors.InputError,
        3: errors.InputError,
        4: errors.OutOfMemory,
        5: errors.Cancelled,
        6: errors.NotFinite,
    }
    header = (ROOT / "runtime/include/mobile_bundle/mobile_bundle.h").read_text()
    assert {int(number) for number in re.findall(r"MB_ERROR_\w+ = (\d+)", header)} == set(expected)
    check(0)
    for status, kind in expected.items():
        with pytest.raises(kind):
            check(status)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Texts that are raised, told or logged: constant parts of the arguments of such calls."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if (
                name in {"tell", "info", "append"}
                or name.endswith("Error")
                or name in {kind.__name__ for kind in kinds()}
            ):
                for argument in node.args:
                    for part in ast.walk(argument):
                        if isinstance(part, ast.Constant) and isinstance(part.value, str):
                            yield part.lineno, part.value


FOREIGN = ("--local-dir", "--merge", "--upgrade")
"""Options of other programs, in messages that say what to type."""


def test_option_names_appear_in_the_command_line_only():
    found, seen = [], 0
    for path in SOURCES.rglob("*.py"):
        if path.parent.name in ("cli", "lab") or path.name == "subject.py":  # subject.py makes command lines
            continue
        for line, text in texts(path):
            seen += 1
            options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)) - {*FOREIGN}
            if options and not _is_argument(text):
                found.append(f"{path.relative_to(SOURCES)}:{line}: {text}")
    assert seen > 500
    assert not found


def _is_argument(text: str) -> bool:
    """Of a command that is run: an option alone."""
    return bool(re.fullmatch(r"--[a-z-]+", text))


def test_every_parameter_in_a_message_has_an_option():
    named = set()
    for path in SOURCES.rglob("*.py"):
        if path.parent.name != "api":
            named |= {name for _, text in texts(path) for name in re.findall(r"`(\w+)`", text)}
    assert {"max_size", "context", "formats"} <= named
    own = {"tensors", "entropy"}  # keys of a recipe file
    assert {name for name in named - own if with_options(f"`{name}`") == f"`{name}`"} == set()
    assert (
        with_options("`max_size` 5 MB; give `context` 5, `tensors`") == "--max-size 5 MB; give --context 5, `tensors`"
    )


def test_the_base_is_exported():
    assert mobile_bundle.errors is errors
