"""What the tests share: the models beside the project, and bundles that are built once per session."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from mobile_bundle.build.pipeline import build_bundle
from mobile_bundle.build.recipe import Recipe
from mobile_bundle.native import runner_paths
from mobile_bundle.plan.memory import predict_memory

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
EXAMPLE = ROOT / "examples/models/wiki-6m"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of models and texts beside the project; tests that need it are skipped where it is not."""
    if not SHARED.is_dir():
        pytest.skip("needs the models and texts of ../shared")
    return SHARED


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """bundle(recipe, model=the example, formats=native): a bundle of it with runners for every ABI."""
    directory = tmp_path_factory.mktemp("bundles")

    @functools.cache
    def build(
        recipe: str | Recipe | None = None, model: Path = EXAMPLE, formats: tuple[str, ...] = ("native",)
    ) -> Path:
        name = recipe.name if isinstance(recipe, Recipe) else recipe
        out = directory / f"{model.name}-{name}-{'-'.join(formats)}.mbundle"
        build_bundle(model, out, recipe, predict=predict_memory, runners=runner_paths, formats=formats)
        return out

    return build
