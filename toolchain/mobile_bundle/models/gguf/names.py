"""Names and row order: llama.cpp's tensors as those of the transformers checkpoint they were converted from.

llama.cpp rotates neighbouring values of a head, transformers values half a head apart, so its converter interleaves the
rows of query and key (LlamaModel.permute) for the architecture "llama" and those of its kind; other families are
rotated as transformers does and keep their rows. ERNIE 4.5's checkpoints are interleaved already.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.models.gguf.families import GgufFamily

ROPE_FACTORS = "rope_freqs.weight"
SHORT_FACTORS = "rope_factors_short.weight"
TABLES = (ROPE_FACTORS, SHORT_FACTORS, "rope_factors_long.weight")
"""Not weights: what a llama3 or longrope scaling divides the rotary frequencies by (config.py)."""

_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER = re.compile(r"blk\.(0|[1-9]\d{0,4})\.(\w+(?:\.\w+)?)\.(weight|bias)")
_QUERY_OR_KEY = re.compile(r".*\.self_attn\.[qk]_proj\.(weight|bias)")


def transformers_name(name: str, family: GgufFamily) -> str | None:
    """The name in a transformers checkpoint, or None for a tensor that the families here do not have."""
    match, known = _LAYER.fullmatch(name), _IN_LAYER | _OUTSIDE | dict(family.names)
    if match and match[2] in known:
        return f"model.layers.{match[1]}.{known[match[2]]}.{match[3]}"
    return known.get(name) if name.endswith(".weight") else None


def is_permuted(family: GgufFamily, name: str) -> bool:
    """Whether the rows of that tensor are interleaved. name: transformers'."""
    return family.permuted and _QUERY_OR_KEY.fullmatch(name) is not None


def original_rows(begin: int, end: int, head_dim: int) -> NDArray[np.int64]:
    """Where the rows begin..end-1 of a transformers matrix stand in the interleaved one."""
    rows = np.arange(begin, end)
    head, within = np.divmod(rows, head_dim)
    half, pair = np.divmod(within, head_dim // 2)
    found: NDArray[np.int64] = head * head_dim + 2 * pair + half
    return found
