"""ERNIE 4.5 0.3B (dense): Ernie4_5ForCausalLM. Llama whose neighbouring values of a head are rotated together: the rows
of query and key are put half a head apart when they are read, which changes no score."""

from mobile_bundle.models.config import Config, Defaults, decoder_spec
from mobile_bundle.models.spec import DecoderSpec

ARCHITECTURE = "Ernie4_5ForCausalLM"
MODEL_TYPE = "ernie4_5"


def read(config: Config) -> DecoderSpec:
    bias = config.flag("use_bias")
    return decoder_spec(
        config,
        ARCHITECTURE,
        Defaults(context=131072, theta=500000.0, epsilon=1e-5, kv_heads=2, head_dim=_head_dim(config)),
        tied=config.flag("tie_word_embeddings") if "tie_word_embeddings" in config.values else True,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        pairs=True,
    )


def _head_dim(config: Config) -> int:
    """128 where config.json leaves it out; null means hidden_size by heads."""
    return 0 if "head_dim" in config.values else 128
