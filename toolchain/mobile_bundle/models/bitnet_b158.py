"""The first BitNet b1.58 checkpoints (1bitLLM/bitnet_b1_58-large, -xl, -3B): BitnetForCausalLM, whose code lies beside
them and not in transformers. BitNet with SiLU and other names; the weights are masters in fp16."""

from mobile_bundle.errors import UnsupportedError
from mobile_bundle.models.config import Config, Defaults, decoder_spec
from mobile_bundle.models.spec import DecoderSpec

ARCHITECTURE = "BitnetForCausalLM"
MODEL_TYPE = ""
"""config.json says "llama", by which transformers would take it for a Llama without its norms."""


def read(config: Config) -> DecoderSpec:
    for key, bits in (("weight_bits", 1), ("input_bits", 8)):
        if config.count(key, bits) != bits:
            raise UnsupportedError(
                f"{key} {config.values[key]} in config.json is not supported; BitNet b1.58 has {bits}"
            )
    return decoder_spec(
        config,
        ARCHITECTURE,
        Defaults(context=2048),
        **config.attention_biases(),
        ternary=True,
        sub_norms=True,
        sources={"attention.sub_norm": "self_attn.inner_attn_ln", "mlp.sub_norm": "mlp.ffn_layernorm"},
    )
