"""From a checkpoint directory to a bundle, one tensor after the other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mobile_bundle
from mobile_bundle.build import facts
from mobile_bundle.build.recipe import Recipe, resolve_recipe
from mobile_bundle.build.weights import WORKERS, Progress, TensorRecord, write_weights
from mobile_bundle.container import manifest as manifests
from mobile_bundle.container.atomic import AtomicDirectory
from mobile_bundle.container.disk import disk_errors, drop_cached, write_file
from mobile_bundle.errors import UserError
from mobile_bundle.models import DecoderSpec, Model, open_model
from mobile_bundle.plan.memory import PredictedMemory
from mobile_bundle.tokenizer import CompiledTokenizer
from mobile_bundle.tokenizer import compile_tokenizer as compile_real_tokenizer

Predict = Callable[[bytes, int, int], PredictedMemory]
"""(mb_model_config, bytes of weights.ptd that generating reads, bytes of tokenizer.bin) -> memory."""
CompileTokenizer = Callable[[Path, dict[str, Any]], CompiledTokenizer]
"""(checkpoint directory, config.json) -> tokenizer."""


def build_bundle(
    model_dir: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    recipe: Recipe | str | None = None,
    *,
    predict: Predict,
    runners: Callable[[], Mapping[str, Path]] | None = None,
    compile_tokenizer: CompileTokenizer = compile_real_tokenizer,
    progress: Progress | None = None,
    workers: int = WORKERS,
) -> dict[str, Any]:
    """Builds the bundle `out_dir` and returns its manifest. It appears whole, or not at all; a bundle of that name is
    replaced at the end.

    recipe: a recipe, its name, or None for the model's default. runners: gives {abi: path of mobile-run}.
    compile_tokenizer: mobile_bundle.tokenizer's unless a test brings its own. UserError says what a person can mend.
    """
    with open_model(model_dir) as model, AtomicDirectory(out_dir, manifests.is_bundle) as out:
        chosen = resolve_recipe(recipe, model.spec)
        tokenizer = compile_tokenizer(Path(model_dir), model.checkpoint.config)
        if tokenizer.vocabulary > model.spec.vocabulary:
            raise UserError(
                f"{model_dir}: the tokenizer has {tokenizer.vocabulary} tokens, the model only "
                f"{model.spec.vocabulary}: they do not belong together"
            )
        spec = model.spec.with_tokens(-1 if tokenizer.bos is None else tokenizer.bos, _end_tokens(tokenizer))
        write_file(out.path / "tokenizer.bin", bytes(tokenizer.data))
        for abi, runner in (runners() if runners else {}).items():
            _copy_runner(Path(runner), out.path / "bin" / abi / "mobile-run")
        records = write_weights(model, spec, chosen, out.path / "weights.ptd", progress, workers)
        if tokenizer.chat_template is not None and not tokenizer.has_chat:
            model.notes.append(tokenizer.chat_template_status)
        manifest = _manifest(model, spec, chosen, records, out.path, predict, tokenizer.has_chat)
        manifests.write_manifest(out.path, manifest)
        out.commit()
        drop_cached(Path(out_dir) / "weights.ptd")
        return manifest


def _end_tokens(tokenizer: CompiledTokenizer) -> tuple[int, ...]:
    """The checkpoint's, and the one that ends an answer by the chat template: some checkpoints leave it out."""
    ends = list(tokenizer.eos)
    if tokenizer.chat_end is not None and tokenizer.chat_end not in ends:
        ends.append(tokenizer.chat_end)
    return tuple(ends)


def mapped_weights(spec: DecoderSpec, file_bytes: int, blobs: Mapping[str, int]) -> int:
    """Bytes of weights.ptd that generating text reads: of a separate input embedding only a few rows are touched.

    blobs: bytes of each tensor by name."""
    return file_bytes if spec.tied else file_bytes - blobs["embedding.weight"]


def _manifest(
    model: Model,
    spec: DecoderSpec,
    recipe: Recipe,
    records: list[TensorRecord],
    directory: Path,
    predict: Predict,
    has_chat: bool,
) -> dict[str, Any]:
    files = manifests.describe_files(directory)
    mapped = mapped_weights(spec, files["weights.ptd"]["bytes"], {record.name: record.bytes for record in records})
    predicted = predict(spec.to_config_bytes(), mapped, files["tokenizer.bin"]["bytes"])
    checkpoint = model.checkpoint
    return {
        "format": manifests.FORMAT,
        "format_version": manifests.FORMAT_VERSION,
        "tool_version": mobile_bundle.__version__,
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
        "chat_template": has_chat,
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
