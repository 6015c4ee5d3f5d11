"""The tensors of a decoder: our names (weights_index.h) and those of transformers, which its families share."""

from __future__ import annotations

from collections.abc import Iterator

from mobile_bundle.models.spec import DecoderSpec, TensorSpec

ROPE = "rope.inverse_frequencies"


def tensors(spec: DecoderSpec, prefix: str) -> list[TensorSpec]:
    """Every tensor in the order of the file. prefix: "model.", or "" for a checkpoint saved without the head.

    A vector is one row. `source` is empty for the rotary table, which is computed.
    """
    embedding = f"{prefix}embed_tokens.weight"
    out = [
        TensorSpec("norm.weight", f"{prefix}norm.weight", "vector", 1, spec.hidden),
        TensorSpec(ROPE, "", "vector", 1, spec.head_dim // 2),
        TensorSpec("embedding.weight", embedding, "embedding", spec.vocabulary, spec.hidden),
    ]
    for layer in range(spec.layers):
        out += _layer(spec, prefix, layer)
    if not spec.tied:
        out.append(TensorSpec("output.weight", "lm_head.weight", "output", spec.vocabulary, spec.hidden))
    return out


def _layer(spec: DecoderSpec, prefix: str, layer: int) -> Iterator[TensorSpec]:
    ours, theirs = f"layers.{layer}.", f"{prefix}layers.{layer}."
    queries, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim

    def vector(name: str, source: str, size: int) -> TensorSpec:
        return TensorSpec(ours + name, theirs + source, "vector", 1, size, layer)

    projections = (
        ("attention.query", "self_attn.q_proj", queries, spec.hidden, spec.qkv_bias),
        ("attention.key", "self_attn.k_proj", keys, spec.hidden, spec.qkv_bias),
        ("attention.value", "self_attn.v_proj", keys, spec.hidden, spec.qkv_bias),
        ("attention.output", "self_attn.o_proj", spec.hidden, queries, spec.output_bias),
        ("mlp.gate", "mlp.gate_proj", spec.feed_forward, spec.hidden, spec.mlp_bias),
        ("mlp.up", "mlp.up_proj", spec.feed_forward, spec.hidden, spec.mlp_bias),
        ("mlp.down", "mlp.down_proj", spec.hidden, spec.feed_forward, spec.mlp_bias),
    )
    for name, source, rows, columns, bias in projections:
        yield TensorSpec(f"{ours}{name}.weight", f"{theirs}{source}.weight", "body", rows, columns, layer)
        if bias:
            yield vector(f"{name}.bias", f"{source}.bias", rows)
    yield vector("attention.norm.weight", "input_layernorm.weight", spec.hidden)
    yield vector("mlp.norm.weight", "post_attention_layernorm.weight", spec.hidden)
    if spec.qk_norm:
        yield vector("attention.query.norm.weight", "self_attn.q_norm.weight", spec.head_dim)
        yield vector("attention.key.norm.weight", "self_attn.k_norm.weight", spec.head_dim)
    if spec.sub_norms:
        yield vector("attention.sub_norm.weight", "self_attn.attn_sub_norm.weight", queries)
        yield vector("mlp.sub_norm.weight", "mlp.ffn_sub_norm.weight", spec.feed_forward)
