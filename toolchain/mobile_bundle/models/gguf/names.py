"""Names and row order: llama.cpp's tensors as those of the transformers checkpoint they were converted from.

llama.cpp rotates neighbouring values of a head, transformers values half a head apart, so its converter interleaves the
rows of query and key (convert_hf_to_gguf.py, LlamaModel.permute) for the architecture "llama"; the Qwen families are
rotated as transformers does and keep their rows.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

ROPE_FACTORS = "rope_freqs.weight"
"""Not a weight: what a llama3 scaling divides the rotary frequencies by (config.py)."""
_PERMUTED = ("llama",)

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
_LAYER = re.compile(r"blk\.(0|[1-9]\d{0,4})\.(\w+)\.(weight|bias)")
_QUERY_OR_KEY = re.compile(r".*\.self_attn\.[qk]_proj\.(weight|bias)")


def transformers_name(name: str) -> str | None:
    """The name in a transformers checkpoint, or None for a tensor that the families here do not have."""
    match = _LAYER.fullmatch(name)
    if match and match[2] in _IN_LAYER:
        return f"model.layers.{match[1]}.{_IN_LAYER[match[2]]}.{match[3]}"
    return _OUTSIDE.get(name)


def is_permuted(architecture: str, name: str) -> bool:
    """Whether llama.cpp's converter interleaved the rows of that tensor. name: transformers'."""
    return architecture in _PERMUTED and _QUERY_OR_KEY.fullmatch(name) is not None


def original_rows(begin: int, end: int, head_dim: int) -> NDArray[np.int64]:
    """Where the rows begin..end-1 of a transformers matrix stand in the interleaved one."""
    rows = np.arange(begin, end)
    head, within = np.divmod(rows, head_dim)
    half, pair = np.divmod(within, head_dim // 2)
    found: NDArray[np.int64] = head * head_dim + 2 * pair + half
    return found
