"""Stage 2, choosing: a codec for every tensor, by a plan, by a recipe, or by trying recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mobile_bundle.calibrate.calibration import Calibration, calibrate, require_torch
from mobile_bundle.codecs import StreamCodec
from mobile_bundle.codecs.registry import GAUSSIAN_ERROR, entropy_coded
from mobile_bundle.errors import ArgumentError
from mobile_bundle.models import Model
from mobile_bundle.pipeline.calibration_text import calibration_text
from mobile_bundle.pipeline.default_recipe import choose_recipe
from mobile_bundle.pipeline.pool import PartPool
from mobile_bundle.pipeline.request import DEFAULT, BuildRequest, Listener
from mobile_bundle.pipeline.source import Source
from mobile_bundle.planning.assignment import assign_codecs
from mobile_bundle.planning.budget import Measure, Planner
from mobile_bundle.planning.candidates import Losses
from mobile_bundle.planning.carried_over import carried_over
from mobile_bundle.planning.exact import exact_codecs, exact_line, exact_recipe, grid_line, kept_codecs, lossless_codecs
from mobile_bundle.planning.recipe import Recipe, resolve_recipe
from mobile_bundle.planning.recipe_file import fixed_codecs
from mobile_bundle.planning.sizes import plan_table


@dataclass(frozen=True)
class Chosen:
    """recipe: under the name that the manifest gives it; assignment: codec by tensor name; calibration: what the codecs
    are to use, or None for data-free coding."""

    recipe: Recipe
    assignment: Mapping[str, StreamCodec]
    calibration: Calibration | None


class Choosing:
    """Chooses codecs. Making one does no work yet, so that an impossible request is refused at once: UserError for a
    recipe that leaves nothing to plan or has no codec for a part, and for an impossible budget. sizes: what a bundle
    with an assignment takes."""

    def __init__(self, request: BuildRequest, source: Source, sizes: Measure) -> None:
        self._request, self._source, self._sizes = request, source, sizes
        self._recipe = _asked(request, source.model)
        fixed = fixed_codecs(self._recipe, source.model.tensors)
        self._planner = (
            Planner(request.budget, source.model.tensors, source.spec, fixed, sizes) if request.budget else None
        )

    def choose(self, pool: PartPool, listener: Listener) -> Chosen:
        """pool: codes what is tried. UserError for a text, a checkpoint or a budget that cannot be used."""
        request, model = self._request, self._source.model
        used = None
        if self._planner or request.calibration:
            names = list(GAUSSIAN_ERROR) if self._planner else []
            require_torch()
            text = calibration_text(request.calibration or DEFAULT, self._source, pool, listener)
            progress = listener.stage("calibrating")
            used = calibrate(model, text.windows, text.name, names, progress, listener.tell, request.device)
        if self._planner and used:
            chosen = self._planned(self._planner, used, listener)
        else:
            chosen = self._by_recipe(pool, used, listener)
        model.notes.extend(carried_over(model.tensors, chosen.assignment))
        return chosen

    def check_stored(self, stored: int) -> None:
        """stored: bytes that the finished bundle takes on a phone. UserError if the budget does not allow them."""
        if self._planner:
            self._planner.check_stored(stored)

    def _planned(self, planner: Planner, used: Calibration, listener: Listener) -> Chosen:
        model = self._source.model
        losses = {
            name: Losses(known.sensitivity, known.losses, known.share, known.inputs)
            for name, known in used.profile.matrices.items()
        }
        plan = planner.plan(losses, used.profile.loss, lossless_codecs(model))
        for line in plan_table(plan, model.tensors):
            listener.tell(line)
        assignment: Mapping[str, StreamCodec] = plan.assignment
        if self._recipe.entropy:
            matrices = {tensor.name for tensor in model.tensors if tensor.role != "vector"}
            assignment = {n: entropy_coded(c) if n in matrices else c for n, c in assignment.items()}
        return Chosen(self._recipe, assignment, used)

    def _by_recipe(self, pool: PartPool, used: Calibration | None, listener: Listener) -> Chosen:
        request, source, recipe = self._request, self._source, self._recipe
        model, spec = source.model, source.spec
        exact, kept = (exact_codecs(model), kept_codecs(model)) if request.recipe is None else ({}, {})
        decided = exact | kept
        free = any(tensor.role != "vector" and tensor.name not in decided for tensor in model.tensors)
        if request.recipe is None and not spec.ternary and (free or not kept):
            recipe = choose_recipe(pool, spec, source.tokenizer, decided, self._sizes, request.target, listener)
            recipe = replace(recipe, title=f"keep, {recipe.name}") if kept else recipe
        assignment = assign_codecs(model.tensors, spec, recipe) | decided
        shared = next((codec.name for codec in assignment.values() if codec.shared_codebook), None)
        if shared and not used:
            raise ArgumentError(
                f"the codebook that layers share by codec {shared} is trained on calibrated weights: give `calibration`"
            )
        if exact:
            recipe = exact_recipe(recipe, model, exact)
            model.notes.append(exact_line(exact))
        line = grid_line(model, assignment) if request.recipe is not None else None
        model.notes.extend([line] if line else [])
        return Chosen(recipe, assignment, used)


def _asked(request: BuildRequest, model: Model) -> Recipe:
    recipe = request.recipe
    if not request.budget:
        resolved = resolve_recipe(recipe, model.spec, model.tensors)
        if not resolved.body or not resolved.embedding:
            raise ArgumentError(
                f"the recipe {resolved.name} has no body or no embedding", "add them, or a budget (`max_size`)"
            )
        return resolved
    if recipe is None:
        return Recipe("", "", (), "planned")
    if isinstance(recipe, str) or recipe.body or recipe.embedding:
        raise ArgumentError(
            "a recipe fixes every tensor; with a budget give none, or a recipe file without body and embedding"
        )
    return recipe
