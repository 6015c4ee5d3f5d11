"""genai_config.json, which tells onnxruntime-genai how to use model.onnx."""

from __future__ import annotations

import json
from collections.abc import Collection

from mobile_bundle.models.spec import ModelConfig

NAME = "genai_config.json"


def decoder_type(config: ModelConfig, tensors: Collection[str]) -> str:
    """onnxruntime-genai's name for a decoder with these tensors (weights.ptd's names).

    Its types differ in what the exporters of other tools write for them; every one of these runs any graph."""
    if "layers.0.attention.query.norm.weight" in tensors:
        return "qwen3"
    if "layers.0.attention.query.bias" in tensors:
        return "qwen2"
    return "mistral" if config.sliding_window else "llama"


def genai_config(config: ModelConfig, kind: str) -> bytes:
    """The file's bytes. kind: decoder_type's.

    Layers, heads and head_size are those of what is bound as past and present (onnx_graph.decoder_graph), which is not
    the model's own KV cache."""
    eos = list(config.eos)
    model = {
        "type": kind,
        "vocab_size": config.vocabulary,
        "context_length": config.context,
        "bos_token_id": config.bos if config.bos >= 0 else (eos[0] if eos else 0),
        "eos_token_id": eos,
        "pad_token_id": eos[0] if eos else 0,
        "decoder": {
            "filename": "model.onnx",
            "hidden_size": config.hidden,
            "head_size": 1,
            "num_attention_heads": config.heads,
            "num_key_value_heads": 1,
            "num_hidden_layers": 1,
            "session_options": {
                "log_id": "mobile-bundle",
                "custom_ops_library": "libmobile_bundle_onnx.so",
                "enable_mem_pattern": False,
                "provider_options": [],
            },
            "inputs": {
                "input_ids": "input_ids",
                "attention_mask": "attention_mask",
                "past_key_names": "past_key_values.%d.key",
                "past_value_names": "past_key_values.%d.value",
            },
            "outputs": {
                "logits": "logits",
                "present_key_names": "present.%d.key",
                "present_value_names": "present.%d.value",
            },
        },
    }
    search = {
        "do_sample": False,
        "max_length": config.default_context,
        "num_beams": 1,
        "past_present_share_buffer": True,
    }
    return (json.dumps({"model": model, "search": search}, indent=2) + "\n").encode()
