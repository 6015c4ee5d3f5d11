"""Phi-3 mini and Phi-4-mini: Phi3ForCausalLM. Llama with query, key and value in one matrix, and gate and up in
another; a part of each head may be rotated."""

from typing import Any

from mobile_bundle.models.config import Config, Defaults, decoder_spec
from mobile_bundle.models.spec import DecoderSpec

ARCHITECTURE = "Phi3ForCausalLM"
MODEL_TYPE = "phi3"


def read(config: Config) -> DecoderSpec:
    window = 0 if config.values.get("sliding_window") is None else config.count("sliding_window")
    return decoder_spec(
        config,
        ARCHITECTURE,
        Defaults(context=4096, epsilon=1e-5, partial=True),
        rope_values=_rope_values(config),
        fused_attention="self_attn.qkv_proj",
        fused_mlp="mlp.gate_up_proj",
        sliding_window=window if window < config.count("max_position_embeddings", 4096) else 0,
    )


def _rope_values(config: Config) -> dict[str, Any]:
    """config.json with the names of before: "su" and "yarn" are longrope. Its original length is 4,096 if left out."""
    values = dict(config.values)
    values["original_max_position_embeddings"] = config.count("original_max_position_embeddings", 4096)
    for key in ("rope_scaling", "rope_parameters"):
        scaling = values.get(key)
        if isinstance(scaling, dict) and scaling.get("rope_type", scaling.get("type")) in ("su", "yarn"):
            values[key] = {**scaling, "rope_type": "longrope"}
    return values
