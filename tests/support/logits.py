"""Logits of a checkpoint directory, by transformers and from what open_model reads of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from mobile_bundle.calibrate.decoder import LayerRunner, normalise, rotary
from mobile_bundle.calibrate.walk import layer_weights, read_matrix
from mobile_bundle.models import open_model
from numpy.typing import NDArray

IDS = torch.arange(3, 43)[None]


def transformers_logits(directory: Path) -> NDArray[np.float32]:
    """float32 (1, tokens, vocabulary), as AutoModelForCausalLM computes them. Raises what transformers raises."""
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        return loaded.eval()(IDS).logits.numpy()


def our_logits(directory: Path) -> NDArray[np.float32]:
    """The same from our reading of config.json and weights. UserError as open_model's."""
    with open_model(directory) as model, torch.no_grad():
        tensors = {tensor.name: torch.from_numpy(read_matrix(model, tensor)) for tensor in model.tensors}
        embedding = tensors["embedding.weight"]
        hidden, tables = embedding[IDS], rotary(model.spec, IDS.shape[1])
        for layer in range(model.spec.layers):
            hidden = LayerRunner(model.spec, layer_weights(model, layer), *tables).forward(hidden)
        hidden = normalise(hidden, tensors["norm.weight"][0], model.spec.norm_epsilon)
        return (hidden @ tensors.get("output.weight", embedding).T).numpy()
