"""Opens what perplexity is measured on: a bundle, or a checkpoint coded as `raw` into a temporary bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mobile_bundle.container.manifest import read_manifest
from mobile_bundle.errors import InputError
from mobile_bundle.files.disk import write_file
from mobile_bundle.files.work_folder import scratch_folder
from mobile_bundle.models import open_model
from mobile_bundle.native.engine import Model
from mobile_bundle.native.tokenizer import Tokenizer
from mobile_bundle.pipeline.weights import build_weights
from mobile_bundle.tokenizer.compile import compile_tokenizer


@contextmanager
def open_for_evaluation(
    path: Path, progress: Callable[[int, int, str], None]
) -> Iterator[tuple[Model, Tokenizer, int | None]]:
    """Model, tokenizer and BOS id (None: the model has none) of a bundle or checkpoint. Raises UserError."""
    if (path / "manifest.json").exists():
        bos = read_manifest(path)["model"]["bos"]
        with _opened(path / "weights.ptd", path / "tokenizer.bin") as (model, tokenizer):
            yield model, tokenizer, bos
    elif path.exists():
        with open_model(path) as checkpoint:
            compiled = compile_tokenizer(path, checkpoint.checkpoint.config)
        with scratch_folder() as directory:
            weights, tokens = directory / "weights.ptd", directory / "tokenizer.bin"
            write_file(tokens, bytes(compiled.data))
            build_weights(path, "raw", weights, progress)
            with _opened(weights, tokens) as (model, tokenizer):
                yield model, tokenizer, compiled.bos
    else:
        raise InputError(f"{path} does not exist; give a bundle, a checkpoint directory or a GGUF file")


@contextmanager
def _opened(weights: Path, tokens: Path) -> Iterator[tuple[Model, Tokenizer]]:
    with Model(weights) as model:
        tokenizer = Tokenizer(tokens)
        try:
            yield model, tokenizer
        finally:
            tokenizer.close()
