"""SmolLM3 3B: SmolLM3ForCausalLM. Llama whose every fourth layer has no positions."""

from mobile_bundle.errors import InputError
from mobile_bundle.models.config import Config, Defaults, decoder_spec, layer_windows
from mobile_bundle.models.spec import DecoderSpec

ARCHITECTURE = "SmolLM3ForCausalLM"
MODEL_TYPE = "smollm3"


def read(config: Config) -> DecoderSpec:
    """no_rope_layers has a 1 for every layer that rotates; without it every no_rope_layer_interval-th does not."""
    layers = config.count("num_hidden_layers")
    rotated = config.values.get("no_rope_layers")
    if rotated is None:
        interval = config.count("no_rope_layer_interval", 4)
        rotated = [int((layer + 1) % interval != 0) for layer in range(layers)]
    if not isinstance(rotated, list) or len(rotated) < layers or any(value not in (0, 1) for value in rotated):
        raise InputError(f"no_rope_layers in config.json is not a list of a 0 or 1 for each of {layers} layers")
    unrotated = frozenset(layer for layer in range(layers) if not rotated[layer])
    sliding = config.flag("use_sliding_window") and config.values.get("sliding_window") is not None
    window = config.count("sliding_window") if sliding else 0
    types = ["sliding_attention" if layer in unrotated and window else "full_attention" for layer in range(layers)]
    return decoder_spec(
        config,
        ARCHITECTURE,
        Defaults(context=32768, theta=2000000.0, kv_heads=4),
        tied=config.flag("tie_word_embeddings") if "tie_word_embeddings" in config.values else True,
        **config.attention_biases(),
        mlp_bias=config.flag("mlp_bias"),
        unrotated_layers=unrotated,
        **layer_windows(config, window, types),
    )
