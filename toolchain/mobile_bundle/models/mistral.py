"""Mistral 7B: MistralForCausalLM. Llama with a sliding window (in every layer; null in later releases)."""

from mobile_bundle.errors import UnsupportedError
from mobile_bundle.models.config import Config, Defaults, decoder_spec, layer_windows
from mobile_bundle.models.spec import DecoderSpec

ARCHITECTURE = "MistralForCausalLM"
MODEL_TYPE = "mistral"


def read(config: Config) -> DecoderSpec:
    """A missing sliding_window means 4,096 as in transformers; null means none."""
    none = "sliding_window" in config.values and config.values["sliding_window"] is None
    window = 0 if none else config.count("sliding_window", 4096)
    windows = layer_windows(config, window, ["sliding_attention"])
    if windows.get("full_layers"):  # which transformers would give a window all the same
        raise UnsupportedError("config.json mixes full and sliding attention (layer_types), which no Mistral does")
    return decoder_spec(
        config,
        ARCHITECTURE,
        Defaults(context=131072, kv_heads=8),
        **windows,
    )
