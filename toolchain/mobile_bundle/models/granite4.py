"""Granite 4 350M, 1B and Micro: GraniteMoeHybridForCausalLM without its Mamba layers and experts. Granite 3 whose gate
and up are one matrix of the "shared" MLP, and which may have no positions."""

from dataclasses import replace

from mobile_bundle.errors import InputError, UnsupportedError
from mobile_bundle.models import granite
from mobile_bundle.models.config import Config, shown
from mobile_bundle.models.spec import DecoderSpec

ARCHITECTURE = "GraniteMoeHybridForCausalLM"
MODEL_TYPE = "granitemoehybrid"


def read(config: Config) -> DecoderSpec:
    layers = config.count("num_hidden_layers")
    _refuse_hybrids(config, layers)
    positions = config.values.get("position_embedding_type")
    if positions not in (None, "rope"):
        raise UnsupportedError(f"position_embedding_type {shown(positions)} in config.json is not supported")
    return replace(
        granite.read(config),
        architecture=ARCHITECTURE,
        feed_forward=config.count("shared_intermediate_size", 1024),
        mlp_bias=False,
        fused_mlp="shared_mlp.input_linear",
        sources={"mlp.down": "shared_mlp.output_linear"},
        unrotated_layers=frozenset() if positions else frozenset(range(layers)),
    )


def _refuse_hybrids(config: Config, layers: int) -> None:
    """transformers' defaults are Mamba in every layer, and eight experts."""
    experts = config.values.get("num_local_experts", 8)
    if experts != 0:
        raise UnsupportedError(
            f"num_local_experts in config.json is {shown(experts)}: a Granite 4 of experts is not supported, only the "
            f"dense ones are (0)"
        )
    types = config.values.get("layer_types", config.values.get("layers_block_type"))
    if types is None:
        types = ["mamba"]
    if not isinstance(types, list) or not all(isinstance(kind, str) for kind in types):
        raise InputError("layer_types in config.json is not a list of names")
    if other := sorted(set(types) - {"attention", "full_attention"}):
        raise UnsupportedError(
            f"layer_types in config.json has {shown(other[0])}: a Granite 4 with Mamba layers (H) is not supported"
        )
    if len(types) != layers:
        raise InputError(f"layer_types in config.json has {len(types)} names for {layers} layers")
