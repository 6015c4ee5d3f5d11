"""Logits of a checkpoint directory, by transformers and from what open_model reads of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from mobile_bundle.calibrate.decoder import LayerRunner, embedded, normalise, rotary, soft_cap
from mobile_bundle.calibrate.walk import read_matrix
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.models import open_model
from mobile_bundle.report.errors import decoded_chunks
from numpy.typing import NDArray

IDS = torch.arange(3, 43)[None]


def transformers_logits(directory: Path) -> NDArray[np.float32]:
    """float32 (1, tokens, vocabulary), as AutoModelForCausalLM computes them. Raises what transformers raises."""
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        return loaded.eval()(IDS).logits.numpy()


def our_logits(directory: Path) -> NDArray[np.float32]:
    """The same from our reading of config.json and weights. UserError as open_model's."""
    return decoder_logits(directory, IDS[0].numpy().astype(np.int32))[None]


def decoder_logits(
    directory: Path, ids: NDArray[np.int32], weights: Path | None = None, half_cache: bool = False
) -> NDArray[np.float32]:
    """float32 (tokens, vocabulary) by calibrate's decoder. weights: a weights.ptd whose values are taken in place of
    the checkpoint's; half_cache: keys and values have the precision of float16, as in the engine's f16 cache."""
    attend = LayerRunner.attend

    def attend_half(self: LayerRunner, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attend(self, q, k.half().float(), v.half().float())

    with open_model(directory) as model, torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        if half_cache:
            patch.setattr(LayerRunner, "attend", attend_half)
        if weights is None:
            tensors = {tensor.name: torch.from_numpy(read_matrix(model, tensor)) for tensor in model.tensors}
        else:
            with WeightsReader(weights) as reader:
                tensors = {
                    tensor.name: torch.from_numpy(np.concatenate(list(decoded_chunks(reader, tensor.name) or ())))
                    for tensor in model.tensors
                }
        embedding, spec = tensors["embedding.weight"], model.spec
        hidden, tables = embedded(spec, embedding[ids.astype(np.int64)][None]), rotary(spec, len(ids))
        for layer in range(spec.layers):
            own = {
                tensor.name.removeprefix(f"layers.{layer}."): tensors[tensor.name][0]
                if tensor.role == "vector"
                else tensors[tensor.name]
                for tensor in model.tensors
                if tensor.layer == layer
            }
            hidden = LayerRunner(spec, own, *tables, layer).forward(hidden)
        hidden = normalise(hidden, tensors["norm.weight"][0], spec.norm_epsilon)
        return soft_cap(hidden @ tensors.get("output.weight", embedding).T, spec.logit_cap)[0].numpy()
