"""EXAONE 4 1.2B and 32B: Exaone4ForCausalLM. Norms behind attention and feed-forward alone, and on query and key heads;
where layers have a window, those without one have no positions."""

from mobile_bundle.errors import InputError
from mobile_bundle.models.config import Config, Defaults, decoder_spec, layer_types, layer_windows, shown
from mobile_bundle.models.spec import DecoderSpec

ARCHITECTURE = "Exaone4ForCausalLM"
MODEL_TYPE = "exaone4"


def read(config: Config) -> DecoderSpec:
    values, layers = config.values, config.count("num_hidden_layers")
    window = (
        0 if "sliding_window" in values and values["sliding_window"] is None else config.count("sliding_window", 4096)
    )
    types = layer_types(config, _types(config, layers)) if window else []
    full = frozenset(layer for layer, kind in enumerate(types) if kind == "full_attention")
    return decoder_spec(
        config,
        ARCHITECTURE,
        Defaults(context=2048, epsilon=1e-5, kv_heads=32),
        qk_norm=True,
        input_norms=False,
        output_norms=True,
        unrotated_layers=full if window else frozenset(),
        **layer_windows(config, window, types),
    )


def _types(config: Config, layers: int) -> list[str]:
    """Every sliding_window_pattern-th layer sees everything."""
    pattern = config.values.get("sliding_window_pattern", 4)
    if isinstance(pattern, str) and pattern and set(pattern) == {"L", "G"} and pattern.index("G") == len(pattern) - 1:
        pattern = len(pattern)
    if isinstance(pattern, bool) or not isinstance(pattern, int) or pattern < 1:
        raise InputError(f"sliding_window_pattern in config.json is {shown(pattern)}, which is not supported")
    return ["sliding_attention" if (layer + 1) % pattern else "full_attention" for layer in range(layers)]
