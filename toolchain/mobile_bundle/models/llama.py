"""Llama 1 to 3.2, TinyLlama, SmolLM and SmolLM2: LlamaForCausalLM."""

from mobile_bundle.models.config import Config, Defaults, decoder_spec
from mobile_bundle.models.spec import DecoderSpec

ARCHITECTURE = "LlamaForCausalLM"
MODEL_TYPE = "llama"


def read(config: Config) -> DecoderSpec:
    """Biases everywhere in the attention with attention_bias, in the feed-forward with mlp_bias."""
    return decoder_spec(
        config,
        ARCHITECTURE,
        Defaults(context=2048),
        **config.attention_biases(),
        mlp_bias=config.flag("mlp_bias"),
    )
