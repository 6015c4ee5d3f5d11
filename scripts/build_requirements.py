"""Prints what pyproject.toml asks for to build the package, one requirement per line."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
print("\n".join(project["build-system"]["requires"]))
