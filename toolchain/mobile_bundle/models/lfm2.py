"""LFM2 and LFM2.5, 350M to 2.6B, the dense ones: Lfm2ForCausalLM. Most layers have a short convolution in place of
attention, whose query and key heads are normed; the tensors have names of their own."""

from mobile_bundle.errors import InputError, UnsupportedError
from mobile_bundle.models.config import Config, Defaults, decoder_spec, shown
from mobile_bundle.models.limits import MOST_TAPS
from mobile_bundle.models.spec import DecoderSpec

ARCHITECTURE = "Lfm2ForCausalLM"
MODEL_TYPE = "lfm2"
_SOURCES = {
    "norm": "embedding_norm",
    "attention.norm": "operator_norm",
    "attention.output": "self_attn.out_proj",
    "attention.query.norm": "self_attn.q_layernorm",
    "attention.key.norm": "self_attn.k_layernorm",
    "mlp.norm": "ffn_norm",
    "mlp.gate": "feed_forward.w1",
    "mlp.up": "feed_forward.w3",
    "mlp.down": "feed_forward.w2",
}


def read(config: Config) -> DecoderSpec:
    values = config.values
    if config.flag("conv_bias"):
        raise UnsupportedError("conv_bias in config.json is not supported")
    convolutions = _convolutions(config)
    taps = config.count("conv_L_cache", 3)
    if convolutions and not 2 <= taps <= MOST_TAPS:
        raise UnsupportedError(f"conv_L_cache {taps} in config.json is not supported: 2 to {MOST_TAPS} are")
    tied = "tie_embedding" if "tie_embedding" in values else "tie_word_embeddings"
    return decoder_spec(
        config,
        ARCHITECTURE,
        Defaults(context=128000, theta=1000000.0, kv_heads=8),
        feed_forward=_feed_forward(config),
        activation="silu",
        norm_epsilon=config.number("norm_eps", 1e-5),
        tied=config.flag(tied) if tied in values else True,
        qk_norm=True,
        convolution_layers=convolutions,
        taps=taps if convolutions else 0,
        sources=_SOURCES,
    )


def _convolutions(config: Config) -> frozenset[int]:
    """Layers without attention, by layer_types or by the list of those with it."""
    layers, types = config.count("num_hidden_layers"), config.values.get("layer_types")
    if types is None:
        attention = config.values.get("full_attn_idxs")
        if attention is None:
            return frozenset()
        if not isinstance(attention, list) or not all(type(layer) is int for layer in attention):
            raise InputError("full_attn_idxs in config.json is not a list of layers")
        return frozenset(range(layers)) - frozenset(attention)
    if not isinstance(types, list) or len(types) != layers:
        raise InputError(f"layer_types in config.json is not a list of {layers} names")
    for kind in types:
        if kind not in ("full_attention", "conv"):
            raise UnsupportedError(f"layer_types in config.json has {shown(kind)}, which is not supported")
    return frozenset(layer for layer, kind in enumerate(types) if kind == "conv")


def _feed_forward(config: Config) -> int:
    """intermediate_size is that of a plain MLP of as many weights, unless config.json says otherwise."""
    size = config.count("block_ff_dim" if "block_ff_dim" in config.values else "intermediate_size", 12288)
    if "block_auto_adjust_ff_dim" in config.values and not config.flag("block_auto_adjust_ff_dim"):
        return size
    size = int(2 * size / 3)
    if config.values.get("block_ffn_dim_multiplier", 1.0) is None:
        return size
    size = int(config.factor("block_ffn_dim_multiplier") * size)
    multiple = config.count("block_multiple_of", 256)
    return (size + multiple - 1) // multiple * multiple
