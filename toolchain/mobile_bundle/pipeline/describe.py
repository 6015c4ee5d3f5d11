"""Stage 5, describing: the manifest of a bundle whose other files are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mobile_bundle.container import manifest as manifests
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.models import card
from mobile_bundle.native.constraint import most_form_bytes
from mobile_bundle.pipeline.parts import TensorRecord
from mobile_bundle.pipeline.source import Source
from mobile_bundle.planning.memory import MappedWeights, mapped_weights, predict_memory
from mobile_bundle.version import __version__


def describe(directory: Path, source: Source, recipe: str, records: list[TensorRecord]) -> dict[str, Any]:
    """The manifest. recipe: its name; records: what was coded, in the order of weights.ptd."""
    model, spec, tokenizer = source.model, source.spec, source.tokenizer
    files = manifests.describe_files(directory)
    mapped = _mapped_weights(directory / "weights.ptd")
    forms = most_form_bytes(tokenizer.data, spec.vocabulary)
    predicted = predict_memory(
        spec.to_config_bytes(), mapped.touched, files["tokenizer.bin"]["bytes"], form_bytes=forms
    )
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
        "recipe": recipe,
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
            "form_bytes": predicted.form_bytes,
        },
        "min_device_ram_gb": predicted.min_device_ram_gb,
        "generation": card.generation(model.checkpoint),
        "chat_template": tokenizer.has_chat,
        "chat_thinking": tokenizer.has_thinking,
        "chat_options": tokenizer.chat_options,
        "licence": card.licence(model.checkpoint),
        "notes": model.notes,
    }


def stored_bytes(directory: Path) -> int:
    """Bytes that a phone stores of a bundle, for one ABI: every file, but only the largest runner."""
    files = [path.stat().st_size for path in directory.iterdir() if path.is_file()]
    runners = [path.stat().st_size for path in directory.glob("bin/*/mobile-run")]
    return sum(files) + max(runners, default=0)


def _mapped_weights(path: Path) -> MappedWeights:
    """Bytes that generating text reads of a weights.ptd that has just been written."""
    with WeightsReader(path) as weights:
        entries = sorted(weights.entries, key=lambda entry: entry.offset)
        packed = {entry.name: weights.packed_header(entry.name) for entry in entries}
        return mapped_weights({entry.name: entry.header for entry in entries}, weights.file_bytes, packed)
