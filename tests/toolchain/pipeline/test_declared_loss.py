"""The line with which a build by a recipe's name says what that recipe costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mobile_bundle.pipeline.declared_loss import _TIMES
from mobile_bundle.planning.recipe import named_recipe
from support.builds import bundle as build_of
from support.checkpoints import write_tiny
from support.paths import EXAMPLE


def told(model: Path, out: Path, recipe: str | None) -> str:
    """What the build says last, "" for nothing."""
    lines: list[str] = []
    build_of(model, out, recipe, tell=lines.append)
    return lines[-1] if lines else ""


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (
            "bitnet",
            "bitnet is for models trained ternary, and this one was not: expect gibberish (with it SmolLM2-135M",
        ),
        ("bitnet-1.25bit", "bitnet-1.25bit is for models trained sparse ternary, and this one was not"),
        ("affine-4bit", "what it costs this model was not measured (with it SmolLM2-135M's perplexity is 67 % higher)"),
        ("affine-2bit", "affine-2bit without `calibration`: expect gibberish"),
        ("affine-8bit", ""),
        ("raw", ""),
    ],
)
def test_an_ordinary_model(tmp_path: Path, recipe: str, words: str) -> None:
    line = told(EXAMPLE, tmp_path / "x.mbundle", recipe)
    assert words in line
    assert bool(words) == bool(line)


def test_a_ternary_checkpoint_is_what_it_was_trained_for(tmp_path: Path, bitnet: Callable[[str], Path]) -> None:
    assert told(bitnet("made"), tmp_path / "x.mbundle", "bitnet") == ""


@pytest.mark.slow
def test_a_model_that_lies_on_the_recipes_grid_loses_nothing(tmp_path: Path) -> None:
    """Every matrix of the body is 4-bit codes times one power of two: 4 bits hold it without loss."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = write_tiny(tmp_path / "model", "llama")
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for values in weights.values():
        if values.ndim == 2:
            codes = torch.randint(-8, 8, values.shape, generator=generator).float()
            codes[:, ::16] = -8
            values.copy_(codes / 64)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert told(folder, tmp_path / "x.mbundle", "affine-4bit") == ""
    assert "67 %" in told(write_tiny(tmp_path / "other", "llama"), tmp_path / "y.mbundle", "affine-4bit")


def test_the_table_names_recipes() -> None:
    assert all(named_recipe(name).body == name for name in _TIMES)
    assert all(times > 1 for times in _TIMES.values())
