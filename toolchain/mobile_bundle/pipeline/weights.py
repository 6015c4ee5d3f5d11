"""A checkpoint's tensors into weights.ptd: coded in any order by any number of workers, then assembled in one order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import as_completed
from pathlib import Path

from mobile_bundle.codecs import StreamCodec
from mobile_bundle.models import DecoderSpec, open_model
from mobile_bundle.pipeline.parts import (
    TensorRecord,
    parts_directory,
)
from mobile_bundle.pipeline.pool import PartPool, Progress
from mobile_bundle.planning.assignment import assign_codecs
from mobile_bundle.planning.exact import exact_codecs
from mobile_bundle.planning.recipe import Recipe, resolve_recipe


def build_weights(
    model_dir: str | os.PathLike[str],
    recipe: Recipe | str | None,
    out_path: str | os.PathLike[str],
    progress: Progress | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
) -> list[TensorRecord]:
    """Builds weights.ptd at `out_path` from a checkpoint directory or a GGUF file. recipe: a name, or None for the
    default; jobs and cluster: as PartPool's.

    UserError names what is wrong with the checkpoint, the recipe or the disk; then there is no file at `out_path`, but
    perhaps a directory of finished parts beside it, from which the next call continues."""
    with open_model(model_dir) as model:
        assignment = assign_codecs(model.tensors, model.spec, resolve_recipe(recipe, model.spec, model.tensors))
        if recipe is None:
            assignment |= exact_codecs(model)
        with PartPool(model, parts_directory(out_path), jobs, cluster) as pool:
            records = write_weights(pool, model.spec, assignment, Path(out_path), progress)
            pool.discard()
            return records


def write_weights(
    pool: PartPool,
    spec: DecoderSpec,
    assignment: Mapping[str, StreamCodec],
    path: Path,
    progress: Progress | None = None,
) -> list[TensorRecord]:
    """Codes every tensor of the pool's model with its codec of `assignment` (by name) and writes weights.ptd at `path`.

    spec: the model's, with the tokenizer's BOS and end tokens. The bytes depend neither on the number of workers nor on
    what an earlier build had finished. The parts are still there afterwards (PartPool.discard). UserError as
    PartPool's."""
    tensors = pool.model.tensors
    pool.check_space((tensor, assignment[tensor.name]) for tensor in tensors)
    total = sum(tensor.rows * tensor.columns for tensor in tensors)
    # the largest first, so that no worker is left alone with one at the end
    order = sorted(tensors, key=lambda tensor: -tensor.rows * tensor.columns)
    waiting = {pool.submit(tensor, assignment[tensor.name]): tensor for tensor in order}
    records = {}
    done = 0
    for future in as_completed(waiting):
        tensor = waiting[future]
        records[tensor.name] = future.result()
        done += tensor.rows * tensor.columns
        if progress:
            progress(done, total, tensor.name)
    return pool.assemble(path, spec.to_config_bytes(), tensors, {}, records)
