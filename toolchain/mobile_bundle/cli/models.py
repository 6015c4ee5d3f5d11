"""Lists the families that can be built, what was tested, and the memory of published sizes. Downloads nothing."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from mobile_bundle.cli.common import positive, print_json
from mobile_bundle.models.families import FAMILIES, Family
from mobile_bundle.native.engine import KV_TYPES
from mobile_bundle.planning.estimate import BundleEstimate, estimate_bundle, published_shape, shape_names
from mobile_bundle.report.text import megabytes

_RECIPES = ("affine-5bit", "affine-4bit", "affine-3bit", "affine-2bit")
"""Those that people choose between. A ternary model is ternary in all of them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--context", type=positive, default=0, help="tokens of context (default: a bundle's, 2,048)")
    parser.add_argument("--kv", choices=KV_TYPES, default="int8", help="type of the KV cache (default: int8)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Prints a block per family."""
    tables = {family.architecture: _sizes(family, options.context, options.kv) for family in FAMILIES}
    if options.json:
        print_json(
            [
                {**asdict(family), "gguf": family.gguf, "formats": family.formats}
                | {"sizes": [[asdict(row) for row in rows] for rows in tables[family.architecture]]}
                for family in FAMILIES
            ]
        )
        return 0
    for family in FAMILIES:
        _print_family(family, tables[family.architecture])
    print(
        "Memory: the predicted peak of a process whose context is full, with the smallest phone of which half the\n"
        "memory holds it. `mobile-bundle estimate --shape NAME` has every recipe; docs/MODELS.md says what each\n"
        "family needs, and which tokenizers are read."
    )
    return 0


def _sizes(family: Family, context: int, kv: str) -> list[list[BundleEstimate]]:
    """Of each published size, from the smallest: an estimate per recipe. A context beyond the model's is cut."""
    out = []
    for name in shape_names():
        shape = published_shape(name)
        if shape.spec.architecture == family.architecture:
            asked = min(context, shape.spec.context)
            out.append([estimate_bundle(shape, recipe, asked, kv) for recipe in _RECIPES])
    return out


def _print_family(family: Family, sizes: list[list[BundleEstimate]]) -> None:
    print(f"{family.name} ({family.architecture})")
    checkpoint = "; a published checkpoint was run" if family.published else ""
    print(f"  tested: {family.tested}{checkpoint}")
    print(f"  formats: {', '.join(family.formats)}; GGUF: {'yes' if family.gguf else 'no'}")
    print(f"  {'':<20}{'weights':>10}  {'context':>8}  " + "".join(f"{recipe:>20}" for recipe in _RECIPES))
    for rows in sizes:
        first = rows[0]
        cells = "".join(f"{f'{megabytes(r.predicted.peak_bytes)}, {r.min_device_ram_gb} GB':>20}" for r in rows)
        weights = f"{first.parameters / 1e6:,.0f} M"
        print(f"  {first.model:<20}{weights:>10}  {first.predicted.context:>8,}  {cells}")
    print()
