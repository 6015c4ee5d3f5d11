"""`import mobile_bundle`: light, and with the names that it says."""

from __future__ import annotations

import subprocess
import sys

import mobile_bundle as mb
import pytest

SCRIPT = """
import sys
import mobile_bundle as mb
mb.errors.BudgetError
heavy = [name for name in ("numpy", "torch", "jsonschema", "jinja2", "tqdm", "ctypes") if name in sys.modules]
assert not heavy, heavy
assert "numpy" not in sys.modules and mb.open and "numpy" in sys.modules and "torch" not in sys.modules
"""


def test_the_import_is_light():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_names():
    assert dir(mb) == sorted(mb.__all__)
    for name in mb.__all__:
        assert getattr(mb, name) is getattr(mb, name)
        assert name == "__version__" or mb.__dict__[name].__doc__
    assert mb.Bundle.__module__ == "mobile_bundle.api.bundle"
    with pytest.raises(AttributeError, match="frobnicate"):
        mb.frobnicate  # noqa: B018
