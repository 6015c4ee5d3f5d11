"""What llama.cpp's architectures have beyond "llama": their keys, names and constants, by its converter
(conversion/*.py) and by what it sets where a file has no key (load_arch_hparams)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mobile_bundle.models.gguf.values import Values

More = Callable[[Values, dict[str, Any]], dict[str, Any]]


def _nothing(values: Values, config: dict[str, Any]) -> dict[str, Any]:
    del values, config
    return {}


@dataclass(frozen=True)
class GgufFamily:
    """architecture, model_type: transformers' ("": as GGUF's). more: values and what config.json has so far, to further
    keys of it. names: of tensors that differ from Llama's, GGUF's to transformers', behind "blk.N." and "layers.N.", or
    outside the layers. keys: behind "ARCHITECTURE.", read by `more` although other architectures have to do without.

    permuted: query and key rows of neighbouring values lie together, as in a file of "llama". windows: `more` reads the
    window. partial: a part of each head may be rotated. convolutions: layers without KV heads have one."""

    architecture: str
    model_type: str = ""
    more: More = _nothing
    names: Mapping[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    permuted: bool = False
    windows: bool = False
    partial: bool = False
    convolutions: bool = False


_FOUR_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_NORMS_BEHIND = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
_SCALES = ("attention.scale", "embedding_scale", "residual_scale", "logit_scale")
_LARGEST_GEMMA2, _LARGEST_GEMMA3 = 46, 62
"""Layers of the 27B, whose scores are scaled by hidden_size / heads."""


def _gemma(values: Values, config: dict[str, Any], largest: int) -> dict[str, Any]:
    """Published in bfloat16, in which transformers keeps sqrt(hidden_size). The window is of every Gemma."""
    caps = {
        f"{name}_logit_softcapping": values.number(f"{name}_logit_softcapping") or None
        for name in ("attn", "final")
        if values.has(f"{name}_logit_softcapping")
    }
    hidden, heads, layers = (config[key] for key in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    return {
        "dtype": "bfloat16",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": hidden // heads if layers == largest else config["head_dim"],
        "sliding_window": values.whole("attention.sliding_window"),
        **caps,
    }


def _gemma2(values: Values, config: dict[str, Any]) -> dict[str, Any]:
    return _gemma(values, config, _LARGEST_GEMMA2)


def _gemma3(values: Values, config: dict[str, Any]) -> dict[str, Any]:
    more = _gemma(values, config, _LARGEST_GEMMA3)
    return {**more, "sliding_window_pattern": 6, "rope_local_base_freq": 10000.0}


def _granite(values: Values, config: dict[str, Any]) -> dict[str, Any]:
    """Granite 4's dense models, too, whose files have keys of Mamba layers besides."""
    del config
    if not values.flag("rope.scaling.finetuned", True):  # llama.cpp's switch for positions in this architecture
        raise values.error("a Granite without positions (rope.scaling.finetuned false) is not supported in a GGUF")
    return {
        "attention_multiplier": values.number("attention.scale"),
        "embedding_multiplier": values.number("embedding_scale", 1.0),
        "residual_multiplier": values.number("residual_scale", 1.0),
        "logits_scaling": values.number("logit_scale", 1.0),
    }


def _minicpm(values: Values, config: dict[str, Any]) -> dict[str, Any]:
    """Files of before these keys are refused: what llama.cpp sets for them is that of one model."""
    base = config["hidden_size"] / values.number("logit_scale")
    return {
        "scale_emb": values.number("embedding_scale"),
        "scale_depth": values.number("residual_scale") * config["num_hidden_layers"] ** 0.5,
        "dim_model_base": round(base),
    }


def _smollm3(values: Values, config: dict[str, Any]) -> dict[str, Any]:
    del values, config
    return {"no_rope_layer_interval": 4}


def _ernie(values: Values, config: dict[str, Any]) -> dict[str, Any]:
    del values
    return {"use_bias": config["attention_bias"]}


def _exaone4(values: Values, config: dict[str, Any]) -> dict[str, Any]:
    if not values.has("attention.sliding_window"):
        return {"sliding_window": None}
    layers = config["num_hidden_layers"]
    window = values.whole("attention.sliding_window")
    slides = values.flags("attention.sliding_window_pattern", layers)
    slides = slides if slides is not None else [bool((layer + 1) % 4) for layer in range(layers)]
    types = ["sliding_attention" if each else "full_attention" for each in slides]
    return {"sliding_window": window, "layer_types": types}


def _phi3(values: Values, config: dict[str, Any]) -> dict[str, Any]:
    """A window of 0 stands for none."""
    window = values.number("attention.sliding_window", 0.0)
    rotated = values.whole("rope.dimension_count", config["head_dim"])
    return {"sliding_window": int(window) or None, "partial_rotary_factor": rotated / config["head_dim"]}


def _lfm2(values: Values, config: dict[str, Any]) -> dict[str, Any]:
    kv_heads = values.wholes("attention.head_count_kv", config["num_hidden_layers"])
    if len(set(kv_heads) - {0}) != 1:
        raise values.error("its layers differ in their number of KV heads, which is not supported")
    return {
        "num_key_value_heads": max(kv_heads),
        "layer_types": ["full_attention" if count else "conv" for count in kv_heads],
        "conv_L_cache": values.whole("shortconv.l_cache"),
        "block_auto_adjust_ff_dim": False,
        "norm_eps": config["rms_norm_eps"],
    }


_LFM2_NAMES = {
    "token_embd_norm.weight": "model.embedding_norm.weight",
    "attn_norm": "operator_norm",
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
    "shortconv.conv": "conv.conv",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj",
}
FAMILIES = {
    "llama": GgufFamily("LlamaForCausalLM", permuted=True),
    "qwen2": GgufFamily("Qwen2ForCausalLM"),
    "qwen3": GgufFamily("Qwen3ForCausalLM"),
    "gemma2": GgufFamily("Gemma2ForCausalLM", "", _gemma2, _FOUR_NORMS, _CAPS, windows=True),
    "gemma3": GgufFamily("Gemma3ForCausalLM", "gemma3_text", _gemma3, _FOUR_NORMS, _CAPS, windows=True),
    "granite": GgufFamily("GraniteForCausalLM", "", _granite, {}, _SCALES, permuted=True),
    "minicpm": GgufFamily("MiniCPMForCausalLM", "", _minicpm, {}, _SCALES[1:], permuted=True),
    "smollm3": GgufFamily("SmolLM3ForCausalLM", "", _smollm3, permuted=True),
    "ernie4_5": GgufFamily("Ernie4_5ForCausalLM", "", _ernie, permuted=True),
    "olmo2": GgufFamily("Olmo2ForCausalLM", names=_NORMS_BEHIND),
    "exaone4": GgufFamily(
        "Exaone4ForCausalLM", "", _exaone4, _NORMS_BEHIND, ("attention.sliding_window_pattern",), windows=True
    ),
    "hunyuan-dense": GgufFamily(
        "HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense",
        names={"attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"},
    ),
    "phi3": GgufFamily(
        "Phi3ForCausalLM", "", _phi3, {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"},
        ("rope.scaling.attn_factor",), windows=True, partial=True,
    ),
    "lfm2": GgufFamily("Lfm2ForCausalLM", "", _lfm2, _LFM2_NAMES, convolutions=True),
}  # fmt: skip
"""By GGUF's name of the architecture."""
