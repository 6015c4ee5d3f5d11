"""The tensors of a decoder: our names (weights_index.h) and those of transformers, which its families share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mobile_bundle.models.spec import DecoderSpec, TensorSpec

ROPE = "rope.inverse_frequencies"
WINDOW_ROPE = "rope.window.inverse_frequencies"


def tensors(spec: DecoderSpec, prefix: str) -> list[TensorSpec]:
    """Every tensor in the order of the file. prefix: "model.", or "" for a checkpoint saved without the head.

    A vector is one row. `source` is empty for the rotary tables, which are computed.
    """
    embedding, half = f"{prefix}embed_tokens.weight", (spec.rotary_dim or spec.head_dim) // 2
    norm = f"{prefix}{spec.sources.get('norm', 'norm')}.weight"
    out = [
        TensorSpec("norm.weight", norm, "vector", 1, spec.hidden, plus=spec.norm_plus, times=spec.logit_scale),
        TensorSpec(ROPE, "", "vector", 1, half),
        TensorSpec("embedding.weight", embedding, "embedding", spec.vocabulary, spec.hidden),
    ]
    if spec.window_frequencies is not None:
        out.insert(2, TensorSpec(WINDOW_ROPE, "", "vector", 1, half))
    for layer in range(spec.layers):
        out += _layer(spec, prefix, layer)
    if not spec.tied:
        out.append(TensorSpec("output.weight", "lm_head.weight", "output", spec.vocabulary, spec.hidden))
    return out


def _layer(spec: DecoderSpec, prefix: str, layer: int) -> Iterator[TensorSpec]:
    ours, theirs = f"layers.{layer}.", f"{prefix}layers.{layer}."
    queries, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim

    convolution = layer in spec.convolution_layers

    def vector(name: str, source: str, size: int) -> TensorSpec:
        return TensorSpec(ours + name, theirs + source, "vector", 1, size, layer)

    def norm(name: str, source: str, size: int) -> TensorSpec:
        found = spec.sources.get(name, source)
        return replace(vector(f"{name}.weight", f"{found}.weight", size), plus=spec.norm_plus)

    attention = (
        ("attention.query", "self_attn.q_proj", queries, spec.hidden, spec.qkv_bias),
        ("attention.key", "self_attn.k_proj", keys, spec.hidden, spec.qkv_bias),
        ("attention.value", "self_attn.v_proj", keys, spec.hidden, spec.qkv_bias),
        ("attention.output", "self_attn.o_proj", spec.hidden, queries, spec.output_bias),
    )
    convolved = (
        ("conv.input", "conv.in_proj", 3 * spec.hidden, spec.hidden, False),
        ("conv.output", "conv.out_proj", spec.hidden, spec.hidden, False),
    )
    mlp = (
        ("mlp.gate", "mlp.gate_proj", spec.feed_forward, spec.hidden, spec.mlp_bias),
        ("mlp.up", "mlp.up_proj", spec.feed_forward, spec.hidden, spec.mlp_bias),
        ("mlp.down", "mlp.down_proj", spec.hidden, spec.feed_forward, spec.mlp_bias),
    )
    fused = _fused(spec, queries, keys)
    for name, source, rows, columns, bias in (convolved if convolution else attention) + mlp:
        pairs = spec.head_dim if spec.pairs and name in ("attention.query", "attention.key") else 0
        held, first, held_rows = fused.get(name, (spec.sources.get(name, source), 0, 0))
        yield TensorSpec(
            f"{ours}{name}.weight", f"{theirs}{held}.weight", "body", rows, columns, layer,
            first_row=first, source_rows=held_rows, pairs=pairs,
        )  # fmt: skip
        if bias:
            yield replace(vector(f"{name}.bias", f"{source}.bias", rows), pairs=pairs)
    if spec.input_norms:
        yield norm("attention.norm", "input_layernorm", spec.hidden)
        yield norm("mlp.norm", "post_attention_layernorm", spec.hidden)
    if spec.output_norms:
        yield norm("attention.output.norm", "post_attention_layernorm", spec.hidden)
        yield norm("mlp.output.norm", "post_feedforward_layernorm", spec.hidden)
    if convolution:
        size = spec.taps * spec.hidden
        yield replace(vector("conv.taps.weight", "conv.conv.weight", size), taps=spec.taps)
        return
    if spec.qk_norm:
        wide = spec.wide_qk_norms
        yield norm("attention.query.norm", "self_attn.q_norm", queries if wide else spec.head_dim)
        yield norm("attention.key.norm", "self_attn.k_norm", keys if wide else spec.head_dim)
    if spec.sub_norms:
        yield norm("attention.sub_norm", "self_attn.attn_sub_norm", queries)
        yield norm("mlp.sub_norm", "mlp.ffn_sub_norm", spec.feed_forward)


def _fused(spec: DecoderSpec, queries: int, keys: int) -> dict[str, tuple[str, int, int]]:
    """Of each matrix that is stored together with others: their name, its first row there, and their rows."""
    attention, wide = queries + 2 * keys, 2 * spec.feed_forward
    out = {}
    if spec.fused_attention:
        out["attention.query"] = (spec.fused_attention, 0, attention)
        out["attention.key"] = (spec.fused_attention, queries, attention)
        out["attention.value"] = (spec.fused_attention, queries + keys, attention)
    if spec.fused_mlp:
        out["mlp.gate"] = (spec.fused_mlp, 0, wide)
        out["mlp.up"] = (spec.fused_mlp, spec.feed_forward, wide)
    return out
