"""genai_config.json, by which onnxruntime-genai finds its way in a model.onnx."""

from __future__ import annotations

import json

from mobile_bundle.models.engine_config import EngineConfig

NAME = "genai_config.json"
_TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}


def genai_config(config: EngineConfig, architecture: str) -> bytes | None:
    """The file's bytes, or None for an architecture that onnxruntime-genai has no decoder type for."""
    if architecture not in _TYPES:
        return None
    eos = list(config.eos)
    model = {
        "type": _TYPES[architecture],
        "vocab_size": config.vocabulary,
        "context_length": config.context,
        "bos_token_id": config.bos if config.bos >= 0 else (eos[0] if eos else 0),
        "eos_token_id": eos,
        "pad_token_id": eos[0] if eos else 0,
        "decoder": {
            "filename": "model.onnx",
            "hidden_size": config.hidden,
            "head_size": config.head_dim,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.kv_heads,
            "num_hidden_layers": config.layers,
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
