"""Hunyuan 0.5B, 1.8B and other dense ones: HunYuanDenseV1ForCausalLM. Query and key heads are normed after they are
rotated, by a table whose base `alpha` stretches."""

from mobile_bundle.models.config import Config, Defaults, decoder_spec
from mobile_bundle.models.spec import DecoderSpec

ARCHITECTURE = "HunYuanDenseV1ForCausalLM"
MODEL_TYPE = "hunyuan_v1_dense"


def read(config: Config) -> DecoderSpec:
    return decoder_spec(
        config,
        ARCHITECTURE,
        Defaults(context=2048, epsilon=1e-5),
        **config.attention_biases(),
        qk_norm=True,
        late_qk_norms=True,
        sources={
            "attention.query.norm": "self_attn.query_layernorm",
            "attention.key.norm": "self_attn.key_layernorm",
        },
    )
