"""Gemma 3 270M and 1B, and the text part of larger ones: Gemma3ForCausalLM.

Norms multiply by 1 + w and stand before and after each half, query and key heads are normed, the gate is GELU by tanh,
and five of six layers see a window, with a rotary table of their own."""

from typing import Any

from mobile_bundle.errors import InputError, UnsupportedError
from mobile_bundle.models.config import Config, Defaults, activation_of, decoder_spec, layer_types, layer_windows
from mobile_bundle.models.rope import rotary
from mobile_bundle.models.spec import DecoderSpec

ARCHITECTURE = "Gemma3ForCausalLM"
MODEL_TYPE = "gemma3_text"
_CONTEXT = 131072
_THETA, _WINDOW_THETA = 1000000.0, 10000.0


def read(config: Config) -> DecoderSpec:
    values, layers = config.values, config.count("num_hidden_layers")
    if config.flag("use_bidirectional_attention"):
        raise UnsupportedError("use_bidirectional_attention in config.json is not supported: it writes no text")
    pattern = config.count("sliding_window_pattern", config.count("_sliding_window_pattern", 6))
    types = ["sliding_attention" if (layer + 1) % pattern else "full_attention" for layer in range(layers)]
    unlimited = "sliding_window" in values and values["sliding_window"] is None
    windows = layer_windows(config, 0 if unlimited else config.count("sliding_window", 4096), types)
    whole, local = _rope_values(values)
    spec = decoder_spec(
        config,
        ARCHITECTURE,
        Defaults(context=_CONTEXT, theta=_THETA, kv_heads=4, head_dim=256),
        rope_values=whole,
        activation=activation_of(config, "hidden_activation", "gelu_pytorch_tanh"),
        tied=config.flag("tie_word_embeddings") if "tie_word_embeddings" in values else True,
        **config.attention_biases(),
        qk_norm=True,
        output_norms=True,
        norm_plus=1.0,
        embedding_scale=config.in_dtype(config.count("hidden_size") ** 0.5),
        query_scale=config.factor("query_pre_attn_scalar", 256.0) ** -0.5,
        score_cap=config.cap("attn_logit_softcapping"),
        logit_cap=config.cap("final_logit_softcapping"),
        sources={"mlp.norm": "pre_feedforward_layernorm"},
        **windows,
    )
    sliding = [layer for layer, kind in enumerate(layer_types(config, types)) if kind == "sliding_attention"]
    if not sliding:
        return spec
    table = rotary(local, spec.head_dim, spec.context, _WINDOW_THETA)
    if table.scale != 1 or spec.rotary_scale != 1:
        raise UnsupportedError(
            "rotary scaling that changes the magnitude (yarn, longrope) is not supported in a Gemma 3"
        )
    if not windows:  # a window as long as the context is none, but its layers keep their table
        windows = {"sliding_window": spec.context, "full_layers": frozenset(range(layers)) - frozenset(sliding)}
    return spec.with_windows(table.frequencies, **windows)


def _rope_values(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json's rotary parameters of layers that see everything and of those with a window, as rope.py takes them.

    transformers 5 keeps a dictionary of each kind of layer; before, rope_scaling was of full layers alone."""
    given = values.get("rope_parameters")
    if given is not None and not isinstance(given, dict):
        raise InputError("rope_parameters in config.json is not an object")
    scaling = values.get("rope_scaling")
    if given is None:
        whole = {"rope_theta": values.get("rope_theta"), "rope_scaling": scaling}
        return whole, {"rope_theta": values.get("rope_local_base_freq")}
    full, local = given.get("full_attention") or {}, given.get("sliding_attention") or {}
    if not isinstance(full, dict) or not isinstance(local, dict):
        raise InputError("rope_parameters in config.json is not an object of full_attention and sliding_attention")
    if isinstance(scaling, dict):
        full = {**full, **scaling}
    full_theta = full.get("rope_theta", values.get("rope_theta"))
    local_theta = local.get("rope_theta", values.get("rope_local_base_freq"))
    return (
        {"rope_theta": full_theta, "rope_parameters": full},
        {"rope_theta": local_theta, "rope_parameters": local},
    )
