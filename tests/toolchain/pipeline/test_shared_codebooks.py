"""Codebooks that the layers of a projection share: only a recipe file asks for them, and only with calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.container import WeightsReader
from mobile_bundle.container.verify import verify_bundle
from mobile_bundle.corpus.text import DEFAULT_TEXT, read_text
from mobile_bundle.errors import ArgumentError
from mobile_bundle.models import open_model
from mobile_bundle.native.engine import Model
from mobile_bundle.planning.recipe import Recipe
from mobile_bundle.report.errors import tensor_errors
from support.builds import build
from support.paths import EXAMPLE

RECIPE = Recipe("affine-4bit", "affine-4bit", (("*.mlp.down.weight", "vptq-v4-b8-shared"),))


@pytest.mark.slow
def test_layers_share_a_codebook(tmp_path: Path) -> None:
    text, bundle = tmp_path / "text.txt", tmp_path / "a.mbundle"
    text.write_text(read_text(DEFAULT_TEXT)[:16000])
    build(EXAMPLE, bundle, RECIPE, calibration=text)
    verify_bundle(bundle)
    with WeightsReader(bundle / "weights.ptd") as weights, open_model(EXAMPLE) as model:
        books = [entry.name for entry in weights.entries if entry.name.startswith("shared.")]
        assert books == ["shared.v4.b8.r0.mlp.down.weight"]
        errors = tensor_errors(model, weights, lambda done, total, name: None)
    for layer in range(model.spec.layers):
        error = errors[f"layers.{layer}.mlp.down.weight"].relative_error
        assert error is not None
        assert 0.05 < error < 0.4
    with Model(bundle / "weights.ptd") as engine, engine.session(64) as session:
        assert np.isfinite(session.feed(np.arange(5, 25, dtype=np.int32))).all()


def test_without_calibration_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="vptq-v4-b8-shared is trained on calibrated weights: give `calibration`"):
        build(EXAMPLE, tmp_path / "a.mbundle", RECIPE)
    assert not (tmp_path / "a.mbundle").exists()
