"""config.json with checks: a missing or invalid value is a one-line error that names its key."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from mobile_bundle.errors import InputError, UnsupportedError
from mobile_bundle.models.limits import MOST, MOST_ATTENTION
from mobile_bundle.models.rope import rotary
from mobile_bundle.models.spec import ACTIVATIONS, MAX_EOS, DecoderSpec

_LARGEST = 1 << 28
_LIMITS = {
    "vocab_size": MOST["vocabulary"],
    "hidden_size": MOST["hidden"],
    "num_hidden_layers": MOST["layers"],
    "num_attention_heads": MOST["heads"],
    "num_key_value_heads": MOST["kv_heads"],
    "head_dim": MOST["head_dim"],
    "intermediate_size": MOST["feed_forward"],
    "max_position_embeddings": MOST["context"],
}
"""The most of the keys whose sizes weights.ptd holds."""
_SMALLEST_FACTOR = 1e-6
_LARGEST_FLOAT = 3.4028234e38
_ACTIVATION_NAMES = {"swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
"""transformers' names that are not ours (spec.ACTIVATIONS)."""


@dataclass(frozen=True)
class Defaults:
    """What transformers' configuration class of a family takes for keys that config.json leaves out.

    kv_heads 0: as many as heads. head_dim 0: hidden / heads. partial: a part of each head can be rotated.
    """

    context: int
    theta: float = 10000.0
    epsilon: float = 1e-6
    kv_heads: int = 0
    head_dim: int = 0
    activation: str = "silu"
    partial: bool = False


class Config:
    """Typed access to config.json."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1. default: for a key that is missing or null."""
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise InputError(f"config.json has no {key}" + (" (it is null)" if key in self.values else ""))
        largest = _LIMITS.get(key, _LARGEST)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
            raise InputError(f"{key} in config.json is {shown(value)}, not a whole number from 1 to {largest}")
        return value

    def number(self, key: str, default: float) -> float:
        """A number of at least 0."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _LARGEST_FLOAT:
            raise InputError(f"{key} in config.json is {shown(value)}, not a number of at least 0")
        return float(value)

    def factor(self, key: str, default: float = 1.0) -> float:
        """A number above 0 that something is multiplied or divided by."""
        value = self.number(key, default)
        if not _SMALLEST_FACTOR <= value <= 1 / _SMALLEST_FACTOR:
            raise InputError(f"{key} in config.json is {shown(self.values.get(key))}, not a factor above 0")
        return value

    def cap(self, key: str, default: float = 0.0) -> float:
        """What values are held below softly, above 0; 0 where the key is null. default: where it is missing."""
        if key not in self.values:
            return default
        return 0.0 if self.values[key] is None else self.factor(key)

    def in_dtype(self, value: float) -> float:
        """The number as a model of config.json's dtype holds it: transformers keeps some factors in that."""
        dtype = str(self.values.get("dtype") or self.values.get("torch_dtype") or "float32").removeprefix("torch.")
        if dtype == "bfloat16":
            bits = int(np.float32(value).view(np.uint32))
            return float(np.uint32((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).view(np.float32))
        return float(np.float16(value) if dtype == "float16" else np.float32(value))

    def flag(self, key: str) -> bool:
        """True or false; false where the key is missing."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise InputError(f"{key} in config.json is {shown(value)}, not true or false")
        return bool(value)

    def attention_biases(self) -> dict[str, Any]:
        """DecoderSpec's fields of families in which `attention_bias` is of all four projections."""
        biased = self.flag("attention_bias")
        return {"qkv_bias": biased, "output_bias": biased}


def shown(value: Any) -> str:
    """A value of config.json in an error message, as JSON and not too long."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def decoder_spec(
    config: Config,
    architecture: str,
    defaults: Defaults,
    rope_values: dict[str, Any] | None = None,
    **differences: Any,
) -> DecoderSpec:
    """The parts that all families share; `differences` are DecoderSpec's fields that a family sets itself.

    rope_values: where the rotary parameters are, if not in config.json's usual places."""
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    absent = "num_key_value_heads" not in config.values  # null means as many as heads in every family
    kv_heads = config.count("num_key_value_heads", defaults.kv_heads if absent and defaults.kv_heads else heads)
    if heads % kv_heads or heads // kv_heads > 128:
        raise InputError(
            f"config.json: num_attention_heads ({heads}) must be a multiple (1 to 128) of num_key_value_heads "
            f"({kv_heads})"
        )
    head_dim = _head_dim(config, hidden, heads, defaults.head_dim)
    if heads * head_dim > MOST_ATTENTION:
        raise InputError(
            f"config.json: num_attention_heads ({heads}) times head_dim ({head_dim}) must be at most {MOST_ATTENTION}"
        )
    if head_dim % 2:
        raise InputError(f"config.json: head_dim ({head_dim}) must be even, because positions are rotary")
    context = config.count("max_position_embeddings", defaults.context)
    rope = rotary(rope_values or config.values, head_dim, context, defaults.theta, defaults.partial)
    fields: dict[str, Any] = {
        "architecture": architecture,
        "name": "",
        "vocabulary": config.count("vocab_size"),
        "hidden": hidden,
        "layers": config.count("num_hidden_layers"),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "feed_forward": differences.get("feed_forward") or config.count("intermediate_size"),
        "context": rope.context,
        "sliding_window": 0,
        "activation": activation_of(config, "hidden_act", defaults.activation),
        "norm_epsilon": config.number("rms_norm_eps", defaults.epsilon),
        "tied": config.flag("tie_word_embeddings"),
        "inverse_frequencies": rope.frequencies,
        "rotary_scale": rope.scale,
        "rotary_dim": 0 if rope.dim == head_dim else rope.dim,
    }
    if rope.context < context:
        fields["notes"] = (
            f"the context ends at {rope.context} positions, not at {context}: the rotary scaling of longer texts "
            f"changes with their length, which is not supported",
        )
    return DecoderSpec(**{**fields, **differences})


def activation_of(config: Config, key: str, default: str) -> str:
    """The activation under a key of config.json, by its name in ACTIVATIONS. UnsupportedError for another."""
    name = str(config.values.get(key) or default)
    known = _ACTIVATION_NAMES.get(name, name)
    if known not in ACTIVATIONS:
        raise UnsupportedError(f"{key} {name!r} is not supported; supported: {', '.join(ACTIVATIONS)}")
    return known


def _head_dim(config: Config, hidden: int, heads: int, default: int) -> int:
    """head_dim, or where neither config.json nor the family (default, 0: none) has it, hidden_size by heads."""
    if config.values.get("head_dim") is not None or default:
        return config.count("head_dim", default)
    if hidden % heads or hidden // heads > _LIMITS["head_dim"]:
        raise InputError(
            f"config.json: hidden_size ({hidden}) must be a multiple (1 to {_LIMITS['head_dim']}) of "
            f"num_attention_heads ({heads})"
        )
    return hidden // heads


def layer_types(config: Config, default_types: list[str] | None = None) -> list[str]:
    """What each layer sees, "full_attention" or "sliding_attention", from config.json's layer_types or the default.

    UserError for a list that is not as long as the model, and for another kind of layer."""
    types, layers = config.values.get("layer_types") or default_types, config.count("num_hidden_layers")
    if not types:
        return ["full_attention"] * layers
    if not (isinstance(types, list) and all(isinstance(kind, str) for kind in types)):
        raise InputError("layer_types in config.json is not a list of names")
    other = set(types) - {"full_attention", "sliding_attention"}
    if other:
        raise UnsupportedError(f"layer_types in config.json has {shown(min(other))}, which is not supported")
    if len(set(types)) == 1:
        return types[:1] * layers
    if len(types) != layers:
        raise InputError(f"layer_types in config.json has {len(types)} names for {layers} layers")
    return types


def layer_windows(config: Config, window: int, default_types: list[str] | None = None) -> dict[str, Any]:
    """DecoderSpec's sliding_window and full_layers.

    window: of the layers that slide, 0 if switched off. default_types: used where config.json has no layer_types.
    """
    types = layer_types(config, default_types)
    context = config.count("max_position_embeddings", MOST["context"])
    if not window or window >= context or "sliding_attention" not in types:
        return {}
    full = frozenset(layer for layer, kind in enumerate(types) if kind == "full_attention")
    return {"sliding_window": window, "full_layers": full}


def config_tokens(values: dict[str, Any]) -> tuple[int, tuple[int, ...]]:
    """(BOS or -1, end tokens) as config.json or generation_config.json names them."""

    def valid(token: Any) -> TypeGuard[int]:
        return isinstance(token, int) and not isinstance(token, bool) and 0 <= token < _LARGEST

    bos, eos = values.get("bos_token_id"), values.get("eos_token_id")
    tokens = eos if isinstance(eos, list) else [eos]
    return (bos if valid(bos) else -1), tuple(token for token in tokens if valid(token))[:MAX_EOS]
