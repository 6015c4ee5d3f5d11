"""A checkpoint of 0.3 MB by NumPy alone, for tests that spoil something in it."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mobile_bundle.tokenizer.vocabulary import BYTE_ALPHABET

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "bos_token_id": 0,
    "eos_token_id": 1,
}
QUERY = "model.layers.0.self_attn.q_proj.weight"


def tensors() -> dict[str, np.ndarray]:
    """Random weights of CONFIG's shapes, float32; always the same."""
    random = np.random.default_rng(0)
    hidden, inner, layer = CONFIG["hidden_size"], CONFIG["intermediate_size"], "model.layers.0."
    shapes = {
        "model.embed_tokens.weight": (CONFIG["vocab_size"], hidden),
        QUERY: (hidden, hidden),
        f"{layer}self_attn.k_proj.weight": (hidden // 2, hidden),
        f"{layer}self_attn.v_proj.weight": (hidden // 2, hidden),
        f"{layer}self_attn.o_proj.weight": (hidden, hidden),
        f"{layer}mlp.gate_proj.weight": (inner, hidden),
        f"{layer}mlp.up_proj.weight": (inner, hidden),
        f"{layer}mlp.down_proj.weight": (hidden, inner),
    }
    made = {name: (0.05 * random.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    norms = ("model.norm.weight", f"{layer}input_layernorm.weight", f"{layer}post_attention_layernorm.weight")
    return made | {name: np.ones(hidden, np.float32) for name in norms}


def tokenizer(vocab: Mapping[str, Any] | None = None, merges: Sequence[Any] = (), **changes: Any) -> dict[str, Any]:
    """tokenizer.json of a byte-level tokenizer: the 256 bytes, what `vocab` adds, and `changes` of its members."""
    split = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True, "trim_offsets": True}
    model = {"type": "BPE", "vocab": BYTE_ALPHABET | dict(vocab or {}), "merges": list(merges)}
    steps = {"normalizer": None, "pre_tokenizer": split, "post_processor": None, "decoder": {"type": "ByteLevel"}}
    return {"version": "1.0", "added_tokens": [], **steps, "model": model, **changes}


def write_checkpoint(
    directory: Path | bytes,
    config: Mapping[str, Any] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
    header: Callable[[dict[str, Any]], dict[str, Any]] = lambda entries: entries,
    files: Mapping[str, bytes | str | object] | None = None,
) -> Path:
    """config: changes of CONFIG; header: changes the safetensors header; files: others by name, as bytes, text or what
    becomes JSON."""
    folder = Path(os.fsdecode(directory))
    folder.mkdir(parents=True)
    entries: dict[str, Any] = {}
    data = b""
    for name, value in (weights or tensors()).items():
        offsets = [len(data), len(data) + value.nbytes]
        entries[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": offsets}
        data += value.tobytes()
    text = json.dumps(header(entries)).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    given = {"config.json": CONFIG | dict(config or {}), "tokenizer.json": tokenizer(), **(files or {})}
    for name, content in given.items():
        if not isinstance(content, (bytes, str)):
            content = json.dumps(content)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder
