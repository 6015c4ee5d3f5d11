"""The default recipe: the smallest of a few recipes that keeps the quality, found by trying them.

The weights do not tell how many bits a model needs: of two models with the same error of the weights, one loses 2 % of
perplexity at 4 bits, the other 60 % (docs/RECIPES.md). So the recipes of a ladder are coded data-free, one after the
other, and the engine compares each with the uncompressed model on a short text that ships with the tool. A recipe that
does not fit the target's memory is not tried. If only recipes fit that lose quality, the best of them is taken, with a
message."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs import StreamCodec
from mobile_bundle.corpus.calibration import calibration_windows
from mobile_bundle.corpus.text import DEFAULT_TEXT
from mobile_bundle.evaluate.divergence import Divergence, compare
from mobile_bundle.files.work_folder import scratch_folder
from mobile_bundle.models import DecoderSpec
from mobile_bundle.native.engine import Model as NativeModel
from mobile_bundle.pipeline.pool import PartPool
from mobile_bundle.pipeline.request import Listener
from mobile_bundle.pipeline.weights import write_weights
from mobile_bundle.planning.assignment import assign_codecs
from mobile_bundle.planning.budget import Measure
from mobile_bundle.planning.recipe import Recipe, named_recipe
from mobile_bundle.tokenizer import CompiledTokenizer

TARGETS = {"android-2gb": 600_000_000}
"""Bytes of predicted peak memory that a bundle may need on a target."""
MOST_INCREASE = 0.03
MOST_KL = 0.03
"""Of perplexity and of mean KL (nats per token): what "keeps the quality" means here."""
_LADDER = (
    named_recipe("affine-4bit"),
    named_recipe("affine-5bit"),
    named_recipe("affine-6bit"),
    Recipe(
        "affine-6bit-g32-e4m4",
        "affine-6bit-g32-e4m4",
        (("*.attention.value.weight", "affine-8bit"),),
        "affine-6bit-g32-e4m4, values 8 bits",
    ),
    named_recipe("affine-8bit"),
)
"""The fourth is for models with outliers: the value projections are a thirtieth of the weights and a quarter of what
6 bits lose (SmolLM2-135M)."""
_BELOW = (named_recipe("affine-3bit"), named_recipe("trellis-2.5bit"), named_recipe("trellis-2bit"))
"""Smaller than the ladder, the best first: taken where nothing else fits, and lossy without calibration."""
_CONTEXT, _WINDOWS = 512, 4
"""Tokens to compare on: 2,044 scored ones tell the mean KL to about a tenth."""

Assignment = Mapping[str, StreamCodec]


def choose_recipe(
    pool: PartPool,
    spec: DecoderSpec,
    tokenizer: CompiledTokenizer,
    exact: Assignment,
    sizes: Measure,
    target: str,
    listener: Listener,
) -> Recipe:
    """The recipe for an ordinary checkpoint. exact: codecs of matrices that are stored without loss in any case;
    sizes: what a bundle takes; target: of TARGETS. The listener is told why it is
    this one.

    UserError for a checkpoint that cannot be coded."""
    model, tell = pool.model, listener.tell
    if all(tensor.name in exact for tensor in model.tensors if tensor.role != "vector"):
        return _LADDER[0]  # nothing is left that it would code

    def assignment(recipe: Recipe) -> dict[str, StreamCodec]:
        return assign_codecs(model.tensors, spec, recipe) | dict(exact)

    def fits(recipe: Recipe) -> bool:
        return sizes(assignment(recipe)).peak <= TARGETS[target]

    fitting = [recipe for recipe in _LADDER if fits(recipe)]
    if not fitting:
        recipe = next((recipe for recipe in _BELOW if fits(recipe)), _BELOW[-1])
        tell(
            f"{recipe.name} chosen: at 4 bits the model would need more than {TARGETS[target] / 1e6:.0f} MB of memory "
            f"(target {target}). Below 4 bits much of the quality is lost; `max_size` with `calibration` loses less"
        )
        return recipe
    windows = calibration_windows(tokenizer, DEFAULT_TEXT, min(spec.context, _CONTEXT), _WINDOWS)
    with scratch_folder() as folder:
        original = folder / "original.ptd"
        write_weights(
            pool,
            spec,
            assign_codecs(model.tensors, spec, named_recipe("raw")),
            original,
            listener.stage("coding raw to compare with"),
        )
        for recipe in fitting:
            tried = folder / "tried.ptd"
            tried.unlink(missing_ok=True)
            write_weights(pool, spec, assignment(recipe), tried, listener.stage(f"trying {recipe.name}"))
            result = _compared(tried, original, windows)
            if result.increase <= MOST_INCREASE and result.kl <= MOST_KL:
                tell(f"{recipe.name} chosen: {_figures(result)}")
                return recipe
            tell(f"{recipe.name} rejected: {_figures(result)}")
    tell(f"{recipe.name} chosen: the best recipe that fits the target {target}; `calibration` loses less")
    return recipe


def _compared(tried: Path, original: Path, windows: NDArray[np.int32]) -> Divergence:
    with NativeModel(tried) as own, NativeModel(original) as other:
        return compare(own, other, windows)


def _figures(result: Divergence) -> str:
    return (
        f"perplexity {100 * result.increase:+.1f} % (limit {100 * MOST_INCREASE:.0f} %), KL {result.kl:.3f} nats "
        f"(limit {MOST_KL}), measured on {result.tokens:,} tokens of the built-in text"
    )
