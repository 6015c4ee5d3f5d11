"""From a checkpoint directory, or a GGUF file, to a bundle."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from mobile_bundle.calibrate.calibration import calibrate
from mobile_bundle.container import manifest as manifests
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.errors import UserError
from mobile_bundle.export.formats import export_programs, program_bytes
from mobile_bundle.files.atomic import AtomicDirectory
from mobile_bundle.files.commit import OutputTaken
from mobile_bundle.files.disk import disk_errors, drop_cached, write_file
from mobile_bundle.models import DecoderSpec, Model, open_model
from mobile_bundle.models import card as facts
from mobile_bundle.models.spec import MAX_EOS
from mobile_bundle.native.programs import missing_runners
from mobile_bundle.pipeline.check import check_forward, check_records
from mobile_bundle.pipeline.default_recipe import choose_recipe
from mobile_bundle.pipeline.parts import TensorRecord, parts_directory
from mobile_bundle.pipeline.pool import PartPool, Progress
from mobile_bundle.pipeline.weights import write_weights
from mobile_bundle.planning.assignment import assign_codecs
from mobile_bundle.planning.budget import Budget, check_possible, make_plan
from mobile_bundle.planning.carried_over import carried_over
from mobile_bundle.planning.exact import exact_codecs, exact_line, exact_recipe, kept_codecs, lossless_codecs
from mobile_bundle.planning.memory import MappedWeights, mapped_weights
from mobile_bundle.planning.recipe import Recipe, entropy_coded, resolve_recipe
from mobile_bundle.planning.recipe_file import fixed_codecs
from mobile_bundle.planning.sizes import Predict, plan_table, sizes_of
from mobile_bundle.tokenizer import CompiledTokenizer
from mobile_bundle.tokenizer import compile_tokenizer as compile_real_tokenizer
from mobile_bundle.version import __version__

CompileTokenizer = Callable[[Path, dict[str, Any], Mapping[str, Any]], CompiledTokenizer]
"""(checkpoint directory, config.json, chat options) -> tokenizer."""


def build_bundle(
    model_dir: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    recipe: Recipe | str | None = None,
    *,
    predict: Predict,
    runners: Callable[[], Mapping[str, Path]] | None = None,
    compile_tokenizer: CompileTokenizer = compile_real_tokenizer,
    progress: Progress | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    budget: Budget | None = None,
    calibration: Path | None = None,
    formats: Collection[str] = ("native",),
    chat_options: Mapping[str, Any] | None = None,
    target: str = "android-2gb",
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Builds the bundle `out_dir` and returns its manifest. It appears whole, or not at all; a bundle of that name is
    replaced at the end. What a build had coded before it failed or was killed lies in parts_directory(out_dir), and the
    next one goes on from there.

    recipe: a recipe, its name, or None for the model's default, which stores without loss what lies on the grid of a
    packed format (grids.py). runners: gives {abi: path of mobile-run}, for the
    format native. formats: of export.formats.FORMATS.
    compile_tokenizer: mobile_bundle.tokenizer's unless a test brings its own. jobs, cluster: as PartPool's.
    budget: what the planner has to keep to; it then chooses every codec that a recipe's patterns do not fix.
    calibration: a text for codecs and planner; None: data-free, or with a budget the text that ships with the tool.
    chat_options: keyword arguments of apply_chat_template that the bundle's chat template is to have (JSON values).
    target: of default_recipe.TARGETS, whose memory the default recipe has to fit.
    tell: takes lines for a person (the plan, what was used).
    UserError says what a person can mend.
    """
    with ExitStack() as stack:
        model = stack.enter_context(open_model(model_dir))
        out = stack.enter_context(AtomicDirectory(out_dir, manifests.obstacle, manifests.fingerprint))
        chosen = _chosen(recipe, budget, model)
        tokenizer = compile_tokenizer(Path(model_dir), model.checkpoint.config, chat_options or {})
        if tokenizer.vocabulary > model.spec.vocabulary:
            raise UserError(
                f"{model_dir}: the tokenizer has {tokenizer.vocabulary} tokens, the model only "
                f"{model.spec.vocabulary}: they do not belong together"
            )
        spec = model.spec.with_tokens(
            -1 if tokenizer.bos is None else tokenizer.bos, _end_tokens(tokenizer, model.notes)
        )
        write_file(out.path / "tokenizer.bin", bytes(tokenizer.data))
        native = runners() if runners and "native" in formats else {}
        for abi, runner in native.items():
            _copy_runner(Path(runner), out.path / "bin" / abi / "mobile-run")
        if native:
            model.notes.extend(missing_runners(native))
        fixed = fixed_codecs(chosen, model.tensors)
        programs = program_bytes(formats, spec.layers)
        sizes = sizes_of(spec, model.tensors, len(tokenizer.data), native, predict, programs)
        if budget:
            check_possible(budget, model.tensors, spec, fixed, sizes)  # before any work
        pool = stack.enter_context(PartPool(model, parts_directory(out_dir), jobs, cluster))  # or fail before any work
        used = None
        if budget or calibration:
            used = calibrate(model, tokenizer, calibration, progress, tell)
        if budget and used:
            sensitivities = {name: known.sensitivity for name, known in used.profile.matrices.items()}
            exact = lossless_codecs(model)
            plan = make_plan(budget, model.tensors, spec, sensitivities, used.profile.loss, fixed, exact, sizes)
            for line in plan_table(plan, model.tensors):
                tell(line)
            assignment = plan.assignment
            if chosen.entropy:
                matrices = {tensor.name for tensor in model.tensors if tensor.role != "vector"}
                assignment = {n: entropy_coded(c) if n in matrices else c for n, c in assignment.items()}
        else:
            exact, kept = (exact_codecs(model), kept_codecs(model)) if recipe is None else ({}, {})
            decided = exact | kept
            free = any(tensor.role != "vector" and tensor.name not in decided for tensor in model.tensors)
            if recipe is None and not spec.ternary and (free or not kept):
                chosen = choose_recipe(pool, spec, tokenizer, decided, sizes, target, progress, tell)
                chosen = replace(chosen, title=f"keep, {chosen.name}") if kept else chosen
            assignment = assign_codecs(model.tensors, spec, chosen) | decided
            if exact:
                chosen = exact_recipe(chosen, model, exact)
                model.notes.append(exact_line(exact))
        model.notes.extend(carried_over(model.tensors, assignment))
        weights = out.path / "weights.ptd"
        if used:
            from mobile_bundle.pipeline.calibrated import write_calibrated

            records = write_calibrated(pool, spec, assignment, weights, used, progress)
            model.notes.append(used.note)
        else:
            records = write_weights(pool, spec, assignment, weights, progress)
        sources = {tensor.name: tensor.source for tensor in model.tensors}
        check_records(records, sources)
        check_forward(out.path, spec, sources)
        _note_given_up(model, tokenizer)
        runtimes = export_programs(out.path, formats, chosen.name)
        manifest = _manifest(model, spec, chosen, records, out.path, predict, tokenizer)
        if runtimes:
            manifest["runtimes"] = runtimes
        manifest = manifests.write_manifest(out.path, manifest)
        if budget and budget.max_size is not None:
            _check_size(out.path, budget.max_size)
        try:
            out.commit()
        except OutputTaken:  # the bundle is whole, only its name is not the one asked for
            pool.discard()
            raise
        pool.discard()
        drop_cached(Path(out_dir) / "weights.ptd")
        return manifest


def _chosen(recipe: Recipe | str | None, budget: Budget | None, model: Model) -> Recipe:
    """The recipe to use. UserError for one that leaves nothing to plan, or nothing to use."""
    if not budget:
        chosen = resolve_recipe(recipe, model.spec, model.tensors)
        if not chosen.body or not chosen.embedding:
            raise UserError(f"the recipe {chosen.name} has no body or no embedding; add them, or a budget (--max-size)")
        return chosen
    if recipe is None:
        return Recipe("", "", (), "planned")
    if isinstance(recipe, str) or recipe.body or recipe.embedding:
        raise UserError(
            "a recipe fixes every tensor; with a budget give none, or a recipe file without body and embedding"
        )
    return recipe


def _check_size(directory: Path, limit: int) -> None:
    """What a phone stores is never larger than asked: the promise is kept by the plan, and checked here."""
    files = [path for path in directory.iterdir() if path.is_file()]
    runners = [path.stat().st_size for path in directory.glob("bin/*/mobile-run")]
    stored = sum(path.stat().st_size for path in files) + max(runners, default=0)
    if stored > limit:
        raise UserError(
            f"the bundle takes {stored:,} bytes on a phone, {limit:,} were asked for; give a smaller --max-size"
        )


def _end_tokens(tokenizer: CompiledTokenizer, notes: list[str]) -> tuple[int, ...]:
    """The checkpoint's, and the one that ends an answer by the chat template: some checkpoints leave it out. Those that
    are beyond what the runtime holds become a note."""
    ends, chat_end = list(tokenizer.eos), tokenizer.chat_end
    if chat_end is not None and chat_end not in ends[:MAX_EOS]:
        ends = [token for token in ends if token != chat_end]
        ends.insert(MAX_EOS - 1, chat_end)
    if len(ends) > MAX_EOS:
        left = ", ".join(str(token) for token in ends[MAX_EOS:][:8])
        notes.append(f"the model has {len(ends)} end tokens, the runtime holds {MAX_EOS}: {left} do not end a text")
    return tuple(ends[:MAX_EOS])


def _note_given_up(model: Model, tokenizer: CompiledTokenizer) -> None:
    """What of the checkpoint is not in the bundle, as far as it is known when the weights are coded."""
    model.notes.extend(tokenizer.notes)
    if not tokenizer.has_whole_chat:
        model.notes.append(tokenizer.chat_template_status)
    zeros = [tensor.source for tensor in model.tensors if model.is_zero(tensor)]
    if zeros:
        few = ", ".join(zeros[:3]) + (" ..." if len(zeros) > 3 else "")
        model.notes.append(f"{len(zeros)} tensors are zero throughout, as in a checkpoint that is not whole: {few}")


def _mapped_weights(path: Path) -> MappedWeights:
    """What generating text reads of a weights.ptd that has just been written."""
    with WeightsReader(path) as weights:
        entries = sorted(weights.entries, key=lambda entry: entry.offset)
        packed = {entry.name: weights.packed_header(entry.name) for entry in entries}
        return mapped_weights({entry.name: entry.header for entry in entries}, weights.file_bytes, packed)


def _manifest(
    model: Model,
    spec: DecoderSpec,
    recipe: Recipe,
    records: list[TensorRecord],
    directory: Path,
    predict: Predict,
    tokenizer: CompiledTokenizer,
) -> dict[str, Any]:
    files = manifests.describe_files(directory)
    mapped = _mapped_weights(directory / "weights.ptd")
    predicted = predict(spec.to_config_bytes(), mapped.touched, files["tokenizer.bin"]["bytes"])
    checkpoint = model.checkpoint
    return {
        "format": manifests.FORMAT,
        "format_version": manifests.FORMAT_VERSION,
        "tool_version": __version__,
        "model": {
            "name": spec.name,
            "architecture": spec.architecture,
            "parameters": model.parameters,
            "vocabulary": spec.vocabulary,
            "hidden": spec.hidden,
            "layers": spec.layers,
            "heads": spec.heads,
            "kv_heads": spec.kv_heads,
            "head_dim": spec.head_dim,
            "feed_forward": spec.feed_forward,
            "context": spec.context,
            "default_context": spec.default_context,
            "sliding_window": spec.sliding_window,
            "tied": spec.tied,
            "bos": spec.bos if spec.bos >= 0 else None,
            "eos": list(spec.eos),
        },
        "recipe": recipe.name,
        "tensors": [record.to_json() for record in records],
        "bytes": sum(file["bytes"] for file in files.values()),
        "bits_per_weight": 8 * sum(record.bytes for record in records) / model.parameters,
        "files": files,
        "predicted": {
            "context": predicted.context,
            "anon_bytes": predicted.anon_bytes,
            "file_bytes": predicted.file_bytes,
            "kv_bytes_per_token": predicted.kv_bytes_per_token,
            "peak_bytes": predicted.peak_bytes,
        },
        "min_device_ram_gb": predicted.min_device_ram_gb,
        "generation": facts.generation(checkpoint),
        "chat_template": tokenizer.has_chat,
        "chat_thinking": tokenizer.has_thinking,
        "chat_options": tokenizer.chat_options,
        "licence": facts.licence(checkpoint),
        "notes": model.notes,
    }


def _copy_runner(source: Path, target: Path) -> None:
    try:
        size = source.stat().st_size
    except OSError as error:
        raise UserError(f"the runner {source} is missing; build the runtime first") from error
    with disk_errors(target, size):
        target.parent.mkdir(parents=True)
        shutil.copyfile(source, target)
        target.chmod(0o755)
