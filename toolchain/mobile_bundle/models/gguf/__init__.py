"""GGUF files (llama.cpp's format) as checkpoints: one file with the weights, the configuration and the tokenizer."""

from mobile_bundle.models.gguf.checkpoint import GgufCheckpoint
from mobile_bundle.models.gguf.container import GgufFile, is_gguf

__all__ = ["GgufCheckpoint", "GgufFile", "is_gguf"]
