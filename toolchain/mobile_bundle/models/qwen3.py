"""Qwen3 (dense): Qwen3ForCausalLM. RMS norms on every query and key head; biases only with attention_bias."""

from mobile_bundle.models.config import Config, Defaults, decoder_spec
from mobile_bundle.models.qwen2 import qwen_windows
from mobile_bundle.models.spec import DecoderSpec

ARCHITECTURE = "Qwen3ForCausalLM"
MODEL_TYPE = "qwen3"


def read(config: Config) -> DecoderSpec:
    return decoder_spec(
        config,
        ARCHITECTURE,
        Defaults(context=32768, kv_heads=32, head_dim=128),
        **config.attention_biases(),
        qk_norm=True,
        **qwen_windows(config),
    )
