"""What fuzzing starts from: small valid inputs for every target of tests/runtime/fuzz.

PYTHONPATH=tests python -m support.fuzz_seeds DIRECTORY writes them as DIRECTORY/TARGET/... (`make fuzz` does)."""

from __future__ import annotations

import json
import random
import shutil
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from mobile_bundle.codecs import Blob, BlobHeader, Format
from mobile_bundle.codecs.blob import FLAG_SHARED_CODEBOOK, round_up
from mobile_bundle.codecs.vector_layout import VectorLayout
from mobile_bundle.container import IndexEntry, WeightsReader
from mobile_bundle.container.index import index_bytes, pack_index
from mobile_bundle.pipeline.weights import build_weights

TARGETS = ("bundle", "weights", "tokenizer", "storage", "request", "state", "constraint")

Tensor = tuple[str, Blob]
_BASE = 16384
_RECIPES = {
    "llama": ("raw", "affine-4bit", "affine-2bit", "vptq-2bit", "hyper", "seedlm-4bit", "affine-4bit+entropy"),
    "qwen2": ("affine-3bit", "affine-5bit", "trellis-2bit", "trellis-2.5bit", "trellis-3bit"),
    "qwen3": ("affine-8bit", "affine-6bit", "raw+entropy"),
    "bitnet": ("bitnet", "bitnet-1.6bit", "bitnet+entropy"),
    "llama-untied-biases": ("bitnet-1.25bit", "vptq-2bit"),
    "gemma3": ("affine-4bit",),
    "olmo2": ("raw",),
    "hunyuan": ("affine-8bit",),
    "gemma2": ("raw",),
    "lfm2": ("affine-4bit",),
}
"""By architecture (checkpoints.ALL): every packed and stored format, every optional tensor."""
_SMALLER: dict[str, dict[str, Any]] = {
    "gemma3": {"num_hidden_layers": 2, "sliding_window": 8, "sliding_window_pattern": 2},
    "gemma2": {"num_hidden_layers": 2, "sliding_window": 8},
    "lfm2": {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
}


def write_seeds(directory: Path) -> dict[str, list[Path]]:
    """The files by target."""
    from support.entropy_coded import write_stored_blobs
    from support.tokenizer_files import small_tokenizer_files

    for target in TARGETS:
        (directory / target).mkdir(parents=True)
    weights = write_small_weights(directory / "bundle")
    for path in weights:
        (directory / "weights" / path.name).write_bytes(path.read_bytes())
    tokenizers = [path.read_bytes() for path in small_tokenizer_files(directory / "tokenizer")]
    shutil.rmtree(directory / "tokenizer")
    (directory / "tokenizer").mkdir()
    for number, data in enumerate(tokenizers):
        (directory / "tokenizer" / f"{number}.bin").write_bytes(data)
    write_stored_blobs(directory / "storage")
    write_requests(directory / "request")
    write_forms(directory / "constraint")
    write_states(directory / "state", [path for path in weights if path.stem in STATES])
    return {target: sorted((directory / target).iterdir()) for target in TARGETS}


def write_requests(directory: Path) -> None:
    """Lines that `mobile-run serve` takes, and some that it does not."""
    from support.serve import BAD_REQUESTS, GOOD_REQUESTS

    for number, line in enumerate([*GOOD_REQUESTS, *(line for line, _ in BAD_REQUESTS)]):
        (directory / f"{number:03}.json").write_text(line, "utf-8")


def write_forms(directory: Path) -> None:
    """What tests/runtime/fuzz/fuzz_constraint.c reads: a letter for the kind, then a schema or an expression."""
    from support.expressions import EXPRESSIONS
    from support.random_schemas import random_schema

    chance = random.Random(1)
    forms = ["j" + json.dumps(random_schema(chance), ensure_ascii=False) for _ in range(80)]
    for number, form in enumerate([*forms, *("r" + expression for expression in EXPRESSIONS)]):
        (directory / f"{number:03}").write_text(form, "utf-8")


STATES = ("llama-affine-4bit", "gemma3-affine-4bit")
"""Models whose states are fuzzed: with and without layers that have a window (of 8 positions)."""


def write_states(directory: Path, weights: list[Path]) -> None:
    """What tests/runtime/fuzz/fuzz_state.c reads: the size of a weights.ptd in 64 bytes, the file, a state of it."""
    from mobile_bundle.native.engine import Model

    for path in weights:
        data, state = path.read_bytes(), directory / "state"
        for count in (1, 7, 20):
            ids = [i % 40 for i in range(count)]
            with Model(path) as model, model.session(context=24, threads=1, prefill_chunk=4) as session:
                session.feed(ids)
                session.save(ids, state)
            (directory / f"{path.stem}-{count}").write_bytes(
                struct.pack("<I60x", len(data)) + data + state.read_bytes()
            )
            state.unlink()


def write_small_weights(directory: Path) -> list[Path]:
    """weights.ptd files of all formats and architectures, without the gaps between segments: a few kilobytes each."""
    out = []
    for name, recipes in _RECIPES.items():
        checkpoint = _checkpoint(directory / name, name)
        for recipe in recipes:
            path = directory / f"{name}-{recipe}.ptd"
            build_weights(checkpoint, recipe, path)
            config, tensors = _tensors(path)
            path.write_bytes(_closed_up(config, tensors))
            out.append(path)
            if recipe == "vptq-2bit":
                out.append(directory / f"{name}-{recipe}-shared.ptd")
                out[-1].write_bytes(_closed_up(config, _with_shared_codebooks(tensors)))
        shutil.rmtree(checkpoint)
    return out


def _checkpoint(directory: Path, name: str) -> Path:
    """A checkpoint of two layers and 40 tokens."""
    import torch
    import transformers
    from support.checkpoints import ALL, CONFIGS

    torch.manual_seed(1)
    prefix, extra = ALL[name]
    sizes: dict[str, Any] = {
        "vocab_size": 40,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = getattr(transformers, CONFIGS.get(prefix, f"{prefix}Config"))(
        **{**sizes, **extra, **_SMALLER.get(name, {}), "head_dim": 8}
    )
    getattr(transformers, f"{prefix}ForCausalLM")(config).save_pretrained(directory)
    return directory


def _tensors(path: Path) -> tuple[bytes, list[Tensor]]:
    """The model's config, and every tensor's name and blob in the order of the file."""
    with WeightsReader(path) as weights:
        return weights.config, [(entry.name, blob) for entry, blob in weights.blobs()]


def _closed_up(config: bytes, tensors: list[Tensor]) -> bytes:
    """A weights.ptd, each blob at the next multiple of 64. Only ExecuTorch needs segments at multiples of 16 KiB."""
    begin = end = _BASE + index_bytes([name for name, _ in tensors])
    body, entries = bytearray(), []
    for name, blob in tensors:
        data, at = blob.to_bytes(), round_up(end, 64)
        body += bytes(at - begin - len(body)) + data
        entries.append(IndexEntry(name, at, replace(blob.header, scale=1.0), zlib.crc32(data)))
        end = at + len(data)
    head = bytes(4) + b"FT01" + struct.pack("<4sI4Q", b"FH01", 40, 48, 0, _BASE, end - _BASE)
    return head.ljust(_BASE, b"\0") + pack_index(config, entries, end) + bytes(body)


def _with_shared_codebooks(tensors: list[Tensor]) -> list[Tensor]:
    """Every vector-quantised matrix with the codebook of its kind in the first layer, which is a tensor of its own."""
    books, out = {}, []
    for name, blob in tensors:
        if blob.header.format is not Format.VECTOR:
            out.append((name, blob))
            continue
        layout = VectorLayout.from_flags(blob.header.flags)
        size, kind = layout.entries * layout.stride, name.split(".", 2)[-1] if name.startswith("layers.") else name
        shared = f"shared.v{layout.length}.b{layout.index_bits}.r{layout.residual_bits}.{kind}"
        books.setdefault(shared, Blob(BlobHeader(Format.INT8, layout.entries, layout.stride), blob.payload[:size]))
        header = replace(blob.header, flags=blob.header.flags | FLAG_SHARED_CODEBOOK)
        out.append((name, Blob(header, blob.payload[round_up(size, 64) :])))
    return [*books.items(), *out]


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]))
