"""Gemma 2 2B and larger: Gemma2ForCausalLM.

Norms multiply by 1 + w and stand before and after each half, the gate is GELU by tanh, every other layer sees a window,
and scores and logits are capped."""

from mobile_bundle.errors import UnsupportedError
from mobile_bundle.models.config import Config, Defaults, activation_of, decoder_spec, layer_windows
from mobile_bundle.models.spec import DecoderSpec

ARCHITECTURE = "Gemma2ForCausalLM"
MODEL_TYPE = "gemma2"


def read(config: Config) -> DecoderSpec:
    values, layers = config.values, config.count("num_hidden_layers")
    if config.flag("use_bidirectional_attention"):
        raise UnsupportedError("use_bidirectional_attention in config.json is not supported: it writes no text")
    types = ["full_attention" if layer % 2 else "sliding_attention" for layer in range(layers)]
    unlimited = "sliding_window" in values and values["sliding_window"] is None
    return decoder_spec(
        config,
        ARCHITECTURE,
        Defaults(context=8192, kv_heads=4, head_dim=256),
        activation=activation_of(config, "hidden_activation", "gelu_pytorch_tanh"),
        tied=config.flag("tie_word_embeddings") if "tie_word_embeddings" in values else True,
        **config.attention_biases(),
        output_norms=True,
        norm_plus=1.0,
        embedding_scale=config.in_dtype(config.count("hidden_size") ** 0.5),
        query_scale=config.factor("query_pre_attn_scalar", 256.0) ** -0.5,
        score_cap=config.cap("attn_logit_softcapping", 50.0),
        logit_cap=config.cap("final_logit_softcapping", 30.0),
        sources={"mlp.norm": "pre_feedforward_layernorm"},
        **layer_windows(config, 0 if unlimited else config.count("sliding_window", 4096), types),
    )
