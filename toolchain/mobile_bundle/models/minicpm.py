"""MiniCPM 1B, 2B and MiniCPM4 0.5B: MiniCPMForCausalLM, as its modeling_minicpm.py on the hub computes it (transformers
has no class of its own). Llama with factors of the embedding, of what each half adds, and of the logits."""

from mobile_bundle.errors import UnsupportedError
from mobile_bundle.models.config import Config, Defaults, decoder_spec
from mobile_bundle.models.spec import DecoderSpec

ARCHITECTURE = "MiniCPMForCausalLM"
MODEL_TYPE = "minicpm"


def read(config: Config) -> DecoderSpec:
    """hidden_size / dim_model_base divides the last hidden states, scale_depth / sqrt(layers) what is added."""
    if config.values.get("num_experts"):
        raise UnsupportedError("a MiniCPM of experts (num_experts) is not supported")
    layers, hidden = config.count("num_hidden_layers"), config.count("hidden_size")
    return decoder_spec(
        config,
        ARCHITECTURE,
        Defaults(context=2048),
        tied=config.flag("tie_word_embeddings") if "tie_word_embeddings" in config.values else True,
        **config.attention_biases(),
        embedding_scale=config.factor("scale_emb"),
        residual_scale=config.factor("scale_depth") / layers**0.5,
        logit_scale=config.count("dim_model_base", 1) / hidden,
    )
