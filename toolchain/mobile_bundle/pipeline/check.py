"""The last check of a bundle before it gets its name: a forward pass over a few tokens, by the engine that will run it.

A model may have finite weights and still compute nothing: a norm or a product overflows float32, and the logits are NaN
for every text. Python never sees that, and a phone would only answer nonsense."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from mobile_bundle.errors import InputError, NotFinite, UserError
from mobile_bundle.models import DecoderSpec
from mobile_bundle.native.engine import Model
from mobile_bundle.native.tokenizer import Tokenizer
from mobile_bundle.pipeline.parts import TensorRecord

SAMPLE = "The history of the city, 1900: it rained; then (at last) 3 + 4 = 7.\n"
MOST_TOKENS = 16
"""Enough to have every layer attend to something, few enough for a model of 7 billion weights."""


def check_records(records: Iterable[TensorRecord], sources: Mapping[str, str]) -> None:
    """UserError for a tensor whose coded values are not finite, or whose error cannot be told. sources: the names in
    the checkpoint of the bundle's tensors."""
    for record in records:
        if not math.isfinite(record.relative_error):
            raise InputError(
                f"tensor {sources[record.name]} holds values that are too large for {record.codec}; "
                "the checkpoint is damaged or diverged"
            )


def check_forward(directory: Path, spec: DecoderSpec, sources: Mapping[str, str]) -> None:
    """Runs weights.ptd and tokenizer.bin of the unfinished bundle `directory` over some tokens of SAMPLE.

    Layer by layer: no more of the weights is in memory than two layers. Stored tensors are decoded into a folder inside
    of `directory` first, which is removed again. sources: the names in the checkpoint of the bundle's tensors.
    UserError where a result is not finite: it names the likely tensor."""
    tokens = _tokens(directory / "tokenizer.bin", spec)
    cache = directory / ".check"
    cache.mkdir()
    try:
        with (
            Model(directory / "weights.ptd", cache=cache, mapping="layers") as model,
            model.session(context=len(tokens)) as session,
        ):
            try:
                session.check(tokens)
            except UserError as error:
                reason = " ".join(sources.get(word, word) for word in str(error).split(" "))
                raise NotFinite(
                    f"the model computes no finite logits: {reason}; the checkpoint's weights are damaged or too large"
                ) from error
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def _tokens(tokenizer_bin: Path, spec: DecoderSpec) -> list[int]:
    """Ids of SAMPLE's beginning, with BOS where the model has one; never none."""
    tokenizer = Tokenizer(tokenizer_bin)
    try:
        ids = [int(i) for i in tokenizer.encode(SAMPLE, special=True)]
    finally:
        tokenizer.close()
    if not ids:  # a tokenizer that knows none of these characters
        ids = [max(spec.bos, 0)]
    return ids[: min(MOST_TOKENS, spec.context)]
