"""Values that a hurried caller gives: each is refused by an error of ours that says what it must be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mobile_bundle as mb
import pytest
from support.paths import EXAMPLE


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"progress": True}, "`progress` True: must be a function"),
        ({"cancel": True}, "`cancel` True: must be a threading.Event"),
        ({"jobs": "2"}, "`jobs`: must be 1 to 1,024"),
        ({"jobs": 99_999_999_999}, "`jobs`: must be 1 to 1,024"),
        ({"cluster": "hello"}, "`cluster` 'hello': must be an address, such as tcp://"),
        ({"max_perplexity": "x"}, "`max_perplexity` 'x': must be a number of at least 1"),
        ({"max_perplexity": 0.5}, "`max_perplexity` 0.5: must be a number of at least 1"),
        ({"max_size": "9" * 400 + "MB"}, "'9999999999"),
        ({"max_size": 10**30}, "'1000000000"),
        ({"recipe": 4}, "`recipe` 4: must be a name, a file or a Recipe"),
        ({"target": "phone"}, "`target` 'phone': must be one of android-2gb"),
        ({"max_size": "30"}, "'30': that is 30 bytes; write the unit, such as 30MB"),
        ({"formats": []}, "`formats`: a bundle needs at least one of native"),
        ({"formats": "native"}, "`formats` 'native': must be a list"),
    ],
)
def test_builds(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(mb.errors.ArgumentError) as error:
        mb.build(EXAMPLE, tmp_path / "x.mbundle", **{"recipe": "raw", **given})
    assert str(error.value).startswith(message)
    assert not (tmp_path / "x.mbundle").exists()


def test_a_budget_that_is_small_beside_a_megabyte(tmp_path: Path) -> None:
    with pytest.raises(mb.errors.BudgetError, match=r"`max_size` 10\.0 kB cannot be met"):
        mb.build(EXAMPLE, tmp_path / "x.mbundle", max_size="10kB")


def test_a_speed_that_no_code_has_is_refused_before_any_text_is_read(tmp_path: Path) -> None:
    told: list[object] = []
    with pytest.raises(mb.errors.BudgetError, match=r"`min_speed` 1e\+300 cannot be met: .* 2\.5 times"):
        mb.build(EXAMPLE, tmp_path / "x.mbundle", max_size="5MB", min_speed=1e300, progress=told.append)
    assert not told


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda model: next(model.stream([1, 2])), r"`prompt` \[1, 2\]: must be a text"),
        (lambda model: next(model.stream("a", sampling={"seed": 1})), "`sampling` .*: must be a Sampling"),
        (lambda model: model.chat("hi"), "`messages` must be a list"),
        (lambda model: model.perplexity(None), "`text` None: must be a text"),
        (lambda model: model.perplexity("a b c", context=1), "`context` 1: a window has at least 2 tokens"),
        (lambda model: model.decode([99_999_999]), "ids must be from 0 to"),
        (lambda model: model.decode([-1]), "ids must be from 0 to"),
        (lambda model: model.decode(5), "ids must be a list"),
        (lambda model: model.logits([]), "at least one"),
        (lambda model: model.logits([0.5]), "ids must be a list"),
    ],
)
def test_models(bundle: Callable[..., Path], use: Callable[[Any], object], message: str) -> None:
    with (
        mb.open(bundle("affine-4bit")).load(context=64) as model,
        pytest.raises(mb.errors.ArgumentError, match=message),
    ):
        use(model)


def test_no_ids_are_no_text(bundle: Callable[..., Path]) -> None:
    with mb.open(bundle("affine-4bit")).load(context=64) as model:
        assert model.decode([]) == ""


@pytest.mark.parametrize("value", [{"temperature": "x"}, {"top_k": 0.5}, {"seed": -1}])
def test_sampling(value: dict[str, Any]) -> None:
    with pytest.raises(mb.errors.ArgumentError):
        mb.Sampling(**value)


def test_a_script_without_a_guard(tmp_path: Path) -> None:
    """Its worker processes import it, and would build as well."""
    script = tmp_path / "script.py"
    script.write_text(
        "import mobile_bundle as mb\n"
        f"mb.build({str(EXAMPLE)!r}, {str(tmp_path / 'x.mbundle')!r}, recipe='raw', jobs=2)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "while a worker process imported this script" in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith("a Python script must build under if __name__ == '__main__'")


def test_a_count_beyond_32_bits_is_not_taken_modulo(bundle: Callable[..., Path]) -> None:
    """2 ** 32 + 64 is 64 in C."""
    with pytest.raises(mb.errors.ArgumentError, match="`context` 4294967360: must be from 0 to 4294967295"):
        mb.estimate(EXAMPLE, recipe="affine-4bit", context=(1 << 32) + 64)
    opened = mb.open(bundle("affine-4bit"))
    for given in ({"context": (1 << 32) + 64}, {"threads": (1 << 32) + 1}):
        with pytest.raises(mb.errors.ArgumentError, match="429496"), opened.load(**given):
            pass
