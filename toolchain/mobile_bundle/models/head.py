"""Which tensor is the output head: the embedding, or a tensor of its own.

transformers (modeling_utils.py, tie_weights) ties the two only if config.json says so and the checkpoint does not hold
both with different values. Where the embedding is missing, it uses the head in its place."""

from __future__ import annotations

from dataclasses import dataclass, field

from mobile_bundle.errors import InputError
from mobile_bundle.models.checkpoint import Checkpoint

HEAD = "lm_head.weight"


@dataclass(frozen=True)
class OutputHead:
    """tied: the embedding is the head. embedding: the tensor to read it from, "" for its own. notes: for a person."""

    tied: bool
    embedding: str = ""
    notes: list[str] = field(default_factory=list)


def output_head(checkpoint: Checkpoint, embedding: str, tied: bool) -> OutputHead:
    """embedding: the name of its tensor; tied: config.json's tie_word_embeddings. UserError if there is no head."""
    if not tied:
        if HEAD not in checkpoint:
            raise InputError(
                f"{checkpoint.directory} has no tensor {HEAD}; if the embedding is its output head, set "
                f'"tie_word_embeddings": true in config.json'
            )
        return OutputHead(False)
    if HEAD not in checkpoint:
        return OutputHead(True)
    if embedding not in checkpoint:
        return OutputHead(
            True, HEAD, [f"there is no {embedding}: {HEAD} is the embedding too, as config.json ties them"]
        )
    if checkpoint.same_values(embedding, HEAD):
        return OutputHead(True)
    return OutputHead(
        False,
        notes=[
            f"config.json ties the output head to the embedding, but {HEAD} holds other values: it is used, as by "
            f"transformers 5"
        ],
    )
