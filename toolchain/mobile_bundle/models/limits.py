"""How large a model may be: the limits of weights_index.h (MB_MOST_*), which the runtime's reader enforces too.

No known model comes near them. They keep every size that is computed from a model far below 2^64."""

from __future__ import annotations

MOST: dict[str, int] = {
    "vocabulary": 1 << 21,
    "hidden": 65536,
    "layers": 1024,
    "heads": 1024,
    "kv_heads": 1024,
    "head_dim": 1024,
    "feed_forward": 1 << 18,
    "context": 1 << 24,
}
"""The most of each field of DecoderSpec and ModelConfig; the least is 1."""
MOST_ATTENTION = 65536
"""heads * head_dim."""
MOST_SHARED_HEADS = 128
"""Query heads per KV head."""
MOST_SET_LAYERS = 128
"""Layers of a model in which some differ from the others (windows, positions)."""
MOST_TAPS = 32
"""Of a convolution; at least 2."""
MOST_TENSORS = 65536
"""Records of an index."""
MOST_INDEX_BYTES = 32 << 20
MOST_NAME_BYTES = 256
"""Of a tensor's name in UTF-8."""


def problem(sizes: object) -> str | None:
    """Why no reader would accept a DecoderSpec or ModelConfig, in one line; None if all readers would."""
    values = {name: int(getattr(sizes, name)) for name in MOST}
    for name, most in MOST.items():
        if not 1 <= values[name] <= most:
            return f"{name} is {values[name]}: 1 to {most} are possible"
    heads, kv_heads, head_dim = values["heads"], values["kv_heads"], values["head_dim"]
    if heads * head_dim > MOST_ATTENTION:
        return f"heads * head_dim is {heads * head_dim}: {MOST_ATTENTION} at most"
    if heads % kv_heads or heads // kv_heads > MOST_SHARED_HEADS:
        return f"heads is {heads}, kv_heads {kv_heads}: it must be 1 to {MOST_SHARED_HEADS} times as many"
    taps, convolutions = (getattr(sizes, name) for name in ("taps", "convolution_layers"))
    if (taps and not 2 <= taps <= MOST_TAPS) or bool(taps) != bool(convolutions):
        return f"taps is {taps}: 2 to {MOST_TAPS} are possible in a model with convolutions, none in another"
    if head_dim % 2:
        return f"head_dim is {head_dim}: it must be even"
    return None
