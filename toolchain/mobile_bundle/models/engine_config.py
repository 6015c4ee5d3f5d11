"""mb_model_config (weights_index.h), read back: what a weights.ptd says of its model."""

from __future__ import annotations

from dataclasses import dataclass

from mobile_bundle.models.spec import ACTIVATIONS, CONFIG_BYTES, CONFIG_LAYOUT, FLAG_INT8_ACTIVATIONS, MAX_EOS


@dataclass(frozen=True)
class EngineConfig:
    """The decoder's dimensions and settings. ternary: BitNet, every projection sees its input rounded to int8."""

    name: str
    ternary: bool
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    context: int
    default_context: int
    sliding_window: int
    activation: str
    norm_epsilon: float
    bos: int
    eos: tuple[int, ...]


def parse_engine_config(data: bytes) -> EngineConfig:
    """From its 256 bytes. ValueError if they are not a config that this version knows."""
    if len(data) != CONFIG_BYTES:
        raise ValueError(f"a model's configuration has {CONFIG_BYTES} bytes, not {len(data)}")
    fields = CONFIG_LAYOUT.unpack(data)
    flags, vocabulary, hidden, layers, heads, kv_heads, head_dim, feed_forward, context, window, activation = fields[
        :11
    ]
    epsilon, bos, eos_count = fields[11:14]
    default_context, name = fields[14 + MAX_EOS], fields[15 + MAX_EOS]
    names = {number: name for name, number in ACTIVATIONS.items()}
    if flags & ~FLAG_INT8_ACTIVATIONS or activation not in names or eos_count > MAX_EOS:
        raise ValueError("a model's configuration is damaged, or made by a newer version")
    return EngineConfig(
        name=name.split(b"\0")[0].decode("utf-8", "replace"),
        ternary=bool(flags & FLAG_INT8_ACTIVATIONS),
        vocabulary=vocabulary,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        feed_forward=feed_forward,
        context=context,
        default_context=default_context,
        sliding_window=window,
        activation=names[activation],
        norm_epsilon=epsilon,
        bos=bos,
        eos=tuple(fields[14 : 14 + eos_count]),
    )
