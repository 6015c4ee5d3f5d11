"""Granite 3 (dense): GraniteForCausalLM. Llama with four factors: of the embedding, of scores, of what attention
and feed-forward add, and of the logits."""

from mobile_bundle.models.config import Config, Defaults, decoder_spec
from mobile_bundle.models.spec import DecoderSpec

ARCHITECTURE = "GraniteForCausalLM"
MODEL_TYPE = "granite"


def read(config: Config) -> DecoderSpec:
    return decoder_spec(
        config,
        ARCHITECTURE,
        Defaults(context=2048),
        **config.attention_biases(),
        mlp_bias=config.flag("mlp_bias"),
        embedding_scale=config.factor("embedding_multiplier"),
        residual_scale=config.factor("residual_multiplier"),
        query_scale=config.factor("attention_multiplier"),
        logit_scale=1 / config.factor("logits_scaling"),
    )
