"""The configuration in a GGUF's metadata, as the config.json of the checkpoint that it was converted from.

So the families (models/llama.py and so on) read it as they read any other. What the runtime cannot do is refused here
by the name of its key; keys that change nothing are passed over.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.models.gguf.container import GgufFile
from mobile_bundle.models.gguf.families import FAMILIES
from mobile_bundle.models.gguf.metadata import Metadata
from mobile_bundle.models.gguf.values import Values

ARCHITECTURES = {name: family.architecture for name, family in FAMILIES.items()}
"""GGUF's name of the architecture, and transformers'. (Mistral is "llama" in a GGUF.)"""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.scale": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "embedding_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "logit_scale": (0.0, 1.0),
    "use_parallel_residual": (False,),
    "attention.sliding_window_pattern": (0, 1),
    "pooling_type": (0,),
    "rope.scaling.attn_factor": (1.0,),
}
"""Keys behind "ARCHITECTURE." that change what is computed, and the values with which they do not."""

_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Of every Llama 3.1 to 3.3; `factor` differs. A GGUF keeps only what comes of them (convert_hf_to_gguf.py)."""


def config_json(
    file: GgufFile, rope_factors: NDArray[np.float32] | None, short_factors: NDArray[np.float32] | None = None
) -> dict[str, Any]:
    """rope_factors: float32 (head_dim / 2,), the values of rope_freqs.weight, or None; short_factors: those of
    rope_factors_short.weight. UserError for a model that is not read."""
    metadata = Metadata(file)
    kind = metadata.text("general.type")
    if kind not in (None, "model"):
        raise metadata.error(f"it holds no language model but a part of one ({kind})")
    architecture = metadata.text("general.architecture")
    if architecture not in ARCHITECTURES:
        raise metadata.error(f"unsupported architecture {architecture}; of GGUF: {', '.join(ARCHITECTURES)}")
    values, family = Values(metadata, architecture), FAMILIES[architecture]
    for key, neutral in _NEUTRAL.items():
        if key in family.keys:
            continue
        value = file.metadata.get(f"{architecture}.{key}")
        if value is not None and value not in neutral:
            raise metadata.error(f"{architecture}.{key} is {str(value)[:40]}, which is not supported")
    heads = values.whole("attention.head_count")
    hidden = values.whole("embedding_length")
    kv_heads = 0 if family.convolutions else values.whole("attention.head_count_kv", heads)
    head_dim = values.whole("attention.key_length", hidden // heads)
    for key in ("attention.value_length", *(() if family.partial else ("rope.dimension_count",))):
        if values.whole(key, head_dim) != head_dim:
            raise metadata.error(f"{architecture}.{key} is not the size of a head, {head_dim}")
    tensors = file.tensors
    layers = values.whole("block_count")
    if layers > len(tensors):  # before a list of tensors is made of the number
        raise metadata.error(f"{architecture}.block_count is {layers}, but it has only {len(tensors)} tensors")
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[architecture]],
        "model_type": family.model_type or architecture,
        "vocab_size": _vocabulary(file, metadata),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": values.whole("feed_forward_length"),
        "max_position_embeddings": values.whole("context_length"),
        "rms_norm_eps": values.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": values.number("rope.freq_base", 10000.0),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in tensors,
        "bos_token_id": metadata.whole("tokenizer.ggml.bos_token_id"),
    }
    if not family.windows:
        _add_window(config, values)
    longrope = _longrope(values, config, short_factors) if family.partial else None
    scaling = longrope or _scaling(values, rope_factors, config["rope_theta"], head_dim)
    if scaling:
        config["rope_scaling"] = scaling
    return config | family.more(values, config)


def generation_json(file: GgufFile) -> dict[str, Any]:
    """The generation settings as generation_config.json has them: end tokens and general.sampling.*."""
    metadata = Metadata(file)
    ends = [metadata.whole(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    values: dict[str, Any] = {
        "bos_token_id": metadata.whole("tokenizer.ggml.bos_token_id"),
        "eos_token_id": list(dict.fromkeys(end for end in ends if end is not None)),
        "temperature": metadata.number("general.sampling.temp"),
        "top_k": metadata.whole("general.sampling.top_k"),
        "top_p": metadata.number("general.sampling.top_p"),
        "min_p": metadata.number("general.sampling.min_p"),
        "repetition_penalty": metadata.number("general.sampling.penalty_repeat"),
    }
    if values["temperature"] is not None:
        values["do_sample"] = values["temperature"] > 0
    return {key: value for key, value in values.items() if value is not None}


def _vocabulary(file: GgufFile, metadata: Metadata) -> int:
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise metadata.error("it has no tensor token_embd.weight; is it a whole model?")
    return embedding.shape[0]


def _add_window(config: dict[str, Any], values: Values) -> None:
    """llama.cpp's converter writes no window for Mistral, so one is met in other converters' files only."""
    if not values.has("attention.sliding_window") or values.number("attention.sliding_window") == 0:
        return
    window = values.whole("attention.sliding_window")
    if config["model_type"] == "llama":
        config |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": window}
    elif window < config["max_position_embeddings"]:
        raise values.error("a sliding window is not supported in a GGUF of this architecture")


def _longrope(
    values: Values, config: dict[str, Any], short_factors: NDArray[np.float32] | None
) -> dict[str, Any] | None:
    """rope_scaling of a Phi-3 with a long context, or None. Texts up to the original length are rotated by the short
    factors."""
    if short_factors is None:
        return None
    config["original_max_position_embeddings"] = values.whole("rope.scaling.original_context_length")
    return {
        "rope_type": "longrope",
        "short_factor": short_factors.tolist(),
        "attention_factor": values.number("rope.scaling.attn_factor", 1.0),
    }


def _scaling(values: Values, factors: NDArray[np.float32] | None, theta: float, head_dim: int) -> dict[str, Any] | None:
    """rope_scaling of config.json, or None."""
    factor = values.number("rope.scaling.factor", 1.0) if values.has("rope.scaling.factor") else 1.0
    kind = values.text("rope.scaling.type") or "linear"
    if kind not in ("none", "linear"):
        raise values.error(f"rotary scaling {kind!r} is not supported; supported: none, linear, and llama3's factors")
    linear = kind == "linear" and factor not in (0.0, 1.0)
    if factors is None:
        return {"rope_type": "linear", "factor": factor} if linear else None
    if linear or factors.shape != (head_dim // 2,) or not np.isfinite(factors).all():
        raise values.error("the factors of its rotary frequencies (rope_freqs.weight) make no sense")
    scaling = {"rope_type": "llama3", "factor": float(factors.max()), **_LLAMA3}
    if factors.max() == 1:
        return None
    if not np.allclose(llama3_factors(scaling, theta, head_dim), factors, rtol=1e-5, atol=0):
        raise values.error("its rotary frequencies (rope_freqs.weight) are not scaled as those of Llama 3.1 to 3.3")
    return scaling


def llama3_factors(scaling: dict[str, Any], theta: float, head_dim: int) -> NDArray[np.float64]:
    """What llama.cpp's converter makes of a llama3 scaling: a divisor per frequency, float64 (head_dim / 2,)."""
    wave = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((scaling["original_max_position_embeddings"] / wave - low) / (high - low), 0.0, 1.0)
    factors: NDArray[np.float64] = 1 / ((1 - smooth) / scaling["factor"] + smooth)
    return factors
