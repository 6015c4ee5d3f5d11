"""Qwen2 and Qwen2.5: Qwen2ForCausalLM. Llama with biases on query, key and value."""

from typing import Any

from mobile_bundle.errors import InputError
from mobile_bundle.models.config import Config, Defaults, decoder_spec, layer_windows, shown
from mobile_bundle.models.spec import DecoderSpec

ARCHITECTURE = "Qwen2ForCausalLM"
MODEL_TYPE = "qwen2"


def read(config: Config) -> DecoderSpec:
    return decoder_spec(
        config, ARCHITECTURE, Defaults(context=32768, kv_heads=32), qkv_bias=True, **qwen_windows(config)
    )


def qwen_windows(config: Config) -> dict[str, Any]:
    """DecoderSpec's windows: layers from max_window_layers on slide, if use_sliding_window says so at all."""
    if not config.flag("use_sliding_window") or config.values.get("sliding_window", 4096) is None:
        return {}
    layers = config.count("num_hidden_layers")
    first = config.values.get("max_window_layers", 28)
    if isinstance(first, bool) or not isinstance(first, int):
        raise InputError(f"max_window_layers in config.json is {shown(first)}, not a whole number")
    types = ["sliding_attention" if layer >= first else "full_attention" for layer in range(layers)]
    return layer_windows(config, config.count("sliding_window", 4096), types)
