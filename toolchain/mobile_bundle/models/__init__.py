"""Hugging Face checkpoints: config.json to a DecoderSpec, names of the tensors, streamed reading."""

from mobile_bundle.models.checkpoint import Checkpoint
from mobile_bundle.models.registry import ARCHITECTURES, Model, open_model
from mobile_bundle.models.spec import DecoderSpec, TensorSpec

__all__ = ["ARCHITECTURES", "Checkpoint", "DecoderSpec", "Model", "TensorSpec", "open_model"]
