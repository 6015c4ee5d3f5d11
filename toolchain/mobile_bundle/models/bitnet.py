"""BitNet b1.58 (bitnet-b1.58-2B-4T): BitNetForCausalLM. Llama with an RMS norm before the output and down projections
("sub-norms"), squared ReLU, ternary projections and int8 activations.

The projections are ternary whether the checkpoint holds them packed or as bf16 master weights (models/ternary.py).
"""

from mobile_bundle.errors import InputError
from mobile_bundle.models.config import Config, Defaults, decoder_spec
from mobile_bundle.models.spec import DecoderSpec

ARCHITECTURE = "BitNetForCausalLM"
MODEL_TYPE = "bitnet"


def read(config: Config) -> DecoderSpec:
    spec = decoder_spec(
        config,
        ARCHITECTURE,
        Defaults(context=2048, theta=500000.0, epsilon=1e-5, kv_heads=5, activation="relu2"),
        **config.attention_biases(),
        ternary=True,
        sub_norms=True,
    )
    if spec.heads * spec.head_dim != spec.hidden:
        raise InputError(
            f"BitNet needs heads x head_dim = hidden_size; {spec.heads} x {spec.head_dim} != {spec.hidden}"
        )
    return spec
