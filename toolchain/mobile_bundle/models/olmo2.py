"""OLMo 2 1B: Olmo2ForCausalLM. No norm before attention and feed-forward but one behind each, and query and key are
normed over all heads together."""

from mobile_bundle.models.config import Config, Defaults, decoder_spec
from mobile_bundle.models.spec import DecoderSpec

ARCHITECTURE = "Olmo2ForCausalLM"
MODEL_TYPE = "olmo2"


def read(config: Config) -> DecoderSpec:
    return decoder_spec(
        config,
        ARCHITECTURE,
        Defaults(context=2048, epsilon=1e-5),
        **config.attention_biases(),
        qk_norm=True,
        wide_qk_norms=True,
        input_norms=False,
        output_norms=True,
    )
