"""Bundles whose matrices are entropy-coded: smaller, and after the install the very same model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.container.manifest import read_manifest
from mobile_bundle.container.verify import verify_bundle
from mobile_bundle.native.engine import Model
from mobile_bundle.planning.recipe import Recipe, named_recipe
from support.builds import build
from support.paths import EXAMPLE


def logits(bundle: Path) -> np.ndarray:
    with Model(bundle / "weights.ptd") as model, model.session(64) as session:
        return session.feed(np.arange(5, 25, dtype=np.int32)).copy()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["affine-4bit", "vptq-2bit", "bitnet"])
def test_a_smaller_file_with_the_same_logits(bundle: Callable[..., Path], recipe: str) -> None:
    plain, coded = bundle(recipe), bundle(f"{recipe}+entropy")
    manifest = read_manifest(coded)
    assert manifest["recipe"] == f"{recipe}+entropy"
    assert any(tensor["format"] == "entropy" for tensor in manifest["tensors"])
    assert (coded / "weights.ptd").stat().st_size < 0.98 * (plain / "weights.ptd").stat().st_size
    np.testing.assert_array_equal(logits(plain), logits(coded))
    assert (coded / "weights.cache").is_file()
    verify_bundle(coded)


@pytest.mark.slow
def test_overrides_are_entropy_coded_too(tmp_path: Path) -> None:
    """A recipe with patterns, entropy-coded, is what its parts are."""
    overrides = (("layers.0.*", "affine-8bit"), ("*.mlp.down.weight", "vptq-v4-b10"))
    recipe = Recipe("affine-4bit", "affine-4bit", overrides, "mine", True)
    manifest = build(EXAMPLE, tmp_path / "a.mbundle", recipe)
    codecs = {tensor["name"]: tensor["codec"] for tensor in manifest["tensors"]}
    assert codecs["layers.0.mlp.down.weight"] == "affine-8bit+entropy"
    assert codecs["layers.1.mlp.down.weight"] == "vptq-v4-b10+entropy"
    assert codecs["layers.1.mlp.up.weight"] == "affine-4bit+entropy"
    assert codecs["norm.weight"] == "f32"
    assert manifest["recipe"] == "mine+entropy"
    assert named_recipe("affine-4bit+entropy").entropy
