"""Builds with a tokenizer and a prediction of the tests' own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobile_bundle.pipeline.build import build_bundle
from mobile_bundle.planning.recipe import Recipe
from support.checkpoints import byte_tokenizer_bin


@dataclass(frozen=True)
class FakeTokenizer:
    data: bytes = field(default_factory=byte_tokenizer_bin)
    vocabulary: int = 1
    chat_end: int | None = None
    bos: int | None = 1
    eos: tuple[int, ...] = (2, 3)
    has_chat: bool = False
    has_whole_chat: bool = False
    has_thinking: bool = False
    chat_template_status: str = "the chat template is too clever"
    chat_options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FakeMemory:
    context: int = 512
    file_bytes: int = 1
    anon_bytes: int = 2
    kv_bytes_per_token: int = 3
    peak_bytes: int = 4
    min_device_ram_gb: int = 2


def bundle(model: Path, out: Path, recipe: Recipe | str | None = None, **more: Any) -> dict[str, Any]:
    """build_bundle with a tokenizer and a prediction of the test's own."""
    return build_bundle(
        model,
        out,
        recipe,
        predict=lambda config, weights, tokenizer: FakeMemory(file_bytes=weights + tokenizer),
        compile_tokenizer=lambda directory, config, chat_options: FakeTokenizer(),
        **more,
    )
