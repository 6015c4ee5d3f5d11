"""Checks the runtime's includes against runtime/layers.toml, and the table in docs/ARCHITECTURE.md against it, too.

    scripts/check_includes.py [ROOT]

Prints one line for every include that is against the layers, and exits with 1 if there is one.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PUBLIC = "mobile_bundle"  # the folder of the public API, which every layer may include
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"]+)"|<([^>]+)>|(.*))', re.MULTILINE)
SOURCES = (".c", ".h", ".cpp")


@dataclass(frozen=True)
class Layer:
    """One folder of the runtime, as layers.toml declares it."""

    uses: tuple[str, ...]
    visible: tuple[str, ...] | None  # None: every header

    def shows(self, header: str) -> bool:
        """Whether another layer may include this header, a path below the layer's folder."""
        return self.visible is None or header in self.visible


def read_layers(path: Path) -> dict[str, Layer]:
    """The layers in the order of the file. ValueError: one uses a layer that does not stand above it."""
    layers: dict[str, Layer] = {}
    for name, entry in tomllib.loads(path.read_text()).items():
        for used in entry["uses"]:
            if used not in layers:
                raise ValueError(f"{path.name}: {name} uses {used}, which does not stand above it")
        visible = None if entry["visible"] == "*" else tuple(entry["visible"])
        layers[name] = Layer(tuple(entry["uses"]), visible)
    return layers


def wrong_include(runtime: Path, layers: dict[str, Layer], layer: str, match: re.Match[str]) -> str | None:
    """Why a file of `layer` may not have this include; None: it may."""
    quoted, angled, other = match.groups()
    if other is not None:
        return f"#include {other.strip()}: write the header's path"
    header = quoted or angled
    owner, _, below = header.partition("/")
    if owner == PUBLIC:
        return None if (runtime / "include" / header).is_file() else f"{header} is not in the public API"
    if owner not in layers or not (runtime / header).is_file():
        return f'"{header}" does not begin with its layer ("engine/model.h")' if quoted else None
    if owner == layer:
        return None
    if owner not in layers[layer].uses:
        return f"{layer} may not use {owner} ({header})"
    return None if layers[owner].shows(below) else f"{header} is private to {owner}"


def check_includes(root: Path, layers: dict[str, Layer]) -> Iterator[str]:
    """One line per include that is against the layers, and per folder that is no layer."""
    runtime = root / "runtime"
    for folder in sorted(path for path in runtime.iterdir() if path.is_dir()):
        files = sorted(path for path in folder.rglob("*") if path.suffix in SOURCES)
        if files and folder.name not in layers and folder.name != "include":
            yield f"{folder.relative_to(root)}: not declared in layers.toml"
        for file in files if folder.name in layers else ():
            text = file.read_text()
            for match in INCLUDE.finditer(text):
                reason = wrong_include(runtime, layers, folder.name, match)
                if reason:
                    line = text.count("\n", 0, match.start()) + 1
                    yield f"{file.relative_to(root)}:{line}: {reason}"


def check_table(root: Path, layers: dict[str, Layer]) -> Iterator[str]:
    """One line per layer whose row in docs/ARCHITECTURE.md is missing or says something else than layers.toml."""
    page = root / "docs" / "ARCHITECTURE.md"
    text = page.read_text()
    for name, layer in layers.items():
        row = re.search(rf"^\| `runtime/{name}/` \|.*\| ([^|]*) \|$", text, re.MULTILINE)
        said = {word.strip() for word in re.split("[,;]", row.group(1))} & set(layers) if row else None
        if said is None:
            yield f"docs/{page.name}: no row for `runtime/{name}/`"
        elif said != set(layer.uses):
            yield f"docs/{page.name}: {name} may use {', '.join(layer.uses) or 'no layer'}, says layers.toml"


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    try:
        layers = read_layers(root / "runtime" / "layers.toml")
    except ValueError as error:
        print(error)
        return 1
    wrong = [*check_includes(root, layers), *check_table(root, layers)]
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
