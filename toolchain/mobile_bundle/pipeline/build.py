"""Builds a bundle from a checkpoint directory or a GGUF file: the stages in their order."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mobile_bundle.calibrate.measured import Measured
from mobile_bundle.container import manifest as manifests
from mobile_bundle.export.formats import export_programs, program_bytes
from mobile_bundle.files.atomic import AtomicDirectory
from mobile_bundle.files.commit import OutputTaken
from mobile_bundle.files.disk import disk_errors, drop_cached, write_file
from mobile_bundle.native.programs import missing_runners, runner_paths
from mobile_bundle.pipeline.check import check_forward, check_records
from mobile_bundle.pipeline.choose import Choosing, Chosen
from mobile_bundle.pipeline.declared_loss import declared_loss
from mobile_bundle.pipeline.describe import describe, stored_bytes
from mobile_bundle.pipeline.parts import TensorRecord, parts_directory
from mobile_bundle.pipeline.pool import PartPool
from mobile_bundle.pipeline.request import BuildRequest, Listener
from mobile_bundle.pipeline.smaller_vocabulary import note_saved, with_vocabulary
from mobile_bundle.pipeline.source import Source, note_given_up, open_source
from mobile_bundle.pipeline.system_state import NAME as SYSTEM_STATE
from mobile_bundle.pipeline.system_state import state_bound, system_tokens, write_system_state
from mobile_bundle.pipeline.weights import write_weights
from mobile_bundle.planning.budget import Measure
from mobile_bundle.planning.sizes import sizes_of


def build_bundle(request: BuildRequest, listener: Listener | None = None) -> dict[str, Any]:
    """Builds the bundle and returns its manifest. It appears whole, or not at all; a bundle of that name is replaced at
    the end. Tensors that a failed or killed build had coded lie in parts_directory(request.output), and the next build
    continues from there.

    UserError says what a person can mend."""
    listener = listener or Listener()
    with ExitStack() as stack:
        request, reduction = stack.enter_context(with_vocabulary(request))
        source = stack.enter_context(open_source(request))
        out = stack.enter_context(AtomicDirectory(request.output, manifests.obstacle, manifests.fingerprint))
        measure, system = _write_small_files(out.path, request, source)
        choosing = Choosing(request, source, measure)
        parts = parts_directory(request.output)
        pool = stack.enter_context(
            PartPool(source.model, parts, request.jobs, request.cluster, request.device != "cpu")
        )
        chosen = choosing.choose(pool, listener)
        records, measured = _code(pool, source, chosen, out.path / "weights.ptd", listener)
        sources = {tensor.name: tensor.source for tensor in source.model.tensors}
        check_records(records, sources)
        check_forward(out.path, source.spec, sources)
        if system:
            write_system_state(out.path, system)
        note_given_up(source)
        if reduction:
            source.model.notes.append(note_saved(reduction, source.model.tensors, records))
        runtimes = export_programs(out.path, request.formats, chosen.recipe.name)
        manifest = describe(out.path, source, chosen.recipe.name, records)
        if runtimes:
            manifest["runtimes"] = runtimes
        if measured:
            manifest["measured"] = asdict(measured)
        manifest = manifests.write_manifest(out.path, manifest)
        choosing.check_stored(stored_bytes(out.path))
        try:
            out.commit()
        except OutputTaken:  # the bundle is whole, only its name is not the one asked for
            pool.discard()
            raise
        if out.replaces:
            listener.tell(f"{request.output}: the bundle that was there is replaced")
        pool.discard()
        drop_cached(request.output / "weights.ptd")
        if request.recipe is not None and not request.budget:
            calibrated = chosen.calibration is not None
            if line := declared_loss(chosen.recipe, calibrated, source.spec, source.model.tensors, records):
                listener.tell(line)
        return manifest


def _write_small_files(directory: Path, request: BuildRequest, source: Source) -> tuple[Measure, list[int]]:
    """Writes the tokenizer and the runners. Returns the function that gives the sizes of a bundle with an assignment,
    and the tokens of the system prompt."""
    write_file(directory / "tokenizer.bin", bytes(source.tokenizer.data))
    runners: Mapping[str, Path] = runner_paths() if "native" in request.formats else {}
    for abi, runner in runners.items():
        _copy_runner(runner, directory / "bin" / abi / "mobile-run")
    if runners:
        source.model.notes.extend(missing_runners(runners))
    others = dict(program_bytes(request.formats))
    system: list[int] = []
    if request.system_prompt is not None:
        system = system_tokens(directory, source.spec, request.system_prompt)
        others[SYSTEM_STATE] = state_bound(source.spec, len(system))
    return sizes_of(source.spec, source.model.tensors, len(source.tokenizer.data), runners, others), system


def _code(
    pool: PartPool, source: Source, chosen: Chosen, path: Path, listener: Listener
) -> tuple[list[TensorRecord], Measured | None]:
    """Stage 3: weights.ptd. With calibration also how the coded model does on the text."""
    progress = listener.stage("coding weights")
    if chosen.calibration is None:
        return write_weights(pool, source.spec, chosen.assignment, path, progress), None
    from mobile_bundle.pipeline.calibrated import write_calibrated  # needs torch

    used = chosen.calibration
    records, measured = write_calibrated(pool, source.spec, chosen.assignment, path, used, progress)
    listener.tell(str(measured))
    source.model.notes.append(used.note)
    return records, measured


def _copy_runner(runner: Path, target: Path) -> None:
    with disk_errors(target, runner.stat().st_size):
        target.parent.mkdir(parents=True)
        shutil.copyfile(runner, target)
        target.chmod(0o755)
