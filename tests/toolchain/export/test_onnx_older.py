"""The model.onnx of bundles from before the operator Decoder: ONNX Runtime's attention around our products. Its
operators keep their meaning, and the runner still runs it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.native.engine import Model
from mobile_bundle.native.programs import bundle_runner
from support.onnx_programs import Decoder, onnx_runner, runner_environment
from support.paths import ROOT
from support.prompts import prompt_tokens

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def older(bundle, tmp_path_factory) -> Callable[[str], Path]:
    """older(recipe): a bundle with such a model.onnx."""
    sys.path.insert(0, str(ROOT / "benchmarks/runtimes"))
    from float_decoder import float_model

    def build(recipe: str) -> Path:
        directory = tmp_path_factory.mktemp(recipe) / "b.mbundle"
        shutil.copytree(bundle(recipe), directory)
        with WeightsReader(directory / "weights.ptd") as weights:
            (directory / "model.onnx").write_bytes(float_model(weights).SerializeToString())
        return directory

    return build


@pytest.mark.parametrize(("recipe", "limit"), [("raw", 1e-3), ("affine-8bit", 4e-2)])
def test_its_logits_are_near_the_engine_s(older, recipe, limit):
    """Its attention adds in another order, and where activations are rounded to int8 that changes some codes."""
    directory = older(recipe)
    tokens = prompt_tokens(directory, 70)
    for decoder in (Decoder(directory), Decoder(directory, shared_buffers=128, chunk=7)):
        with Model(directory) as engine, engine.session(kv_type="f16") as session:
            for part in (tokens[:60], *([token] for token in tokens[60:])):
                expected = session.feed(part)
                assert np.linalg.norm(decoder.feed(part) - expected) < limit * np.linalg.norm(expected)


def test_the_runner_runs_it(older):
    directory = older("raw")
    arguments = ("generate", directory, "--prompt", "The history of the city", "--max-new-tokens", "16", "--kv", "f16")
    native = subprocess.run(
        [bundle_runner(directory), *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    ours, refused = (
        subprocess.run(
            [onnx_runner(), *what], capture_output=True, text=True, env=runner_environment(), stdin=subprocess.DEVNULL
        )
        for what in (arguments[:-2], arguments)
    )
    assert ours.stdout == native.stdout
    assert refused.returncode != 0
    assert "has an attention of its own: leave --kv, --kernels and --mapping out" in refused.stderr
