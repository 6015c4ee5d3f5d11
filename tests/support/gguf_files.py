"""GGUF files for the tests, written by the gguf package from checkpoints that transformers made.

Names come from the package's own table and the row order from convert_hf_to_gguf.py's formula, not from the code that
is tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray
from safetensors.numpy import load_file

Type = gguf.GGMLQuantizationType
ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "mistral": gguf.MODEL_ARCH.LLAMA}
ARCHITECTURES |= {"qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
ARCHITECTURES |= {
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "granite": gguf.MODEL_ARCH.GRANITE,
    "minicpm": gguf.MODEL_ARCH.MINICPM,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
    "ernie4_5": gguf.MODEL_ARCH.ERNIE4_5,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
    "exaone4": gguf.MODEL_ARCH.EXAONE4,
    "hunyuan_v1_dense": gguf.MODEL_ARCH.HUNYUAN_DENSE,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "lfm2": gguf.MODEL_ARCH.LFM2,
}
PERMUTED = ("llama", "granite", "minicpm", "smollm3")
"""Those whose converter is, or does as, LlamaModel."""

Edit = Callable[[gguf.GGUFWriter], None]


def wide_checkpoint(directory: Path, family: str = "Llama", **options: Any) -> Path:
    """A small random model whose matrices have whole blocks of every GGML type: columns are multiples of 256."""
    import torch
    import transformers

    shape = {
        "vocab_size": 512,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.05,
    }
    torch.manual_seed(7)
    config = getattr(transformers, f"{family}Config")(**{**shape, **options})
    model = getattr(transformers, f"{family}ForCausalLM")(config).float()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("norm.weight", ".bias")):
                value.copy_(1 + 0.2 * torch.randn_like(value))
    model.save_pretrained(directory)
    return directory


def permuted(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """LlamaModel.permute of llama.cpp's converter."""
    return weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def random_blocks(type_: Type, rows: int, columns: int, seed: int) -> NDArray[np.uint8]:
    """Rows of a type that the package cannot make: random bytes whose fp16 numbers are small and finite."""
    generator = np.random.default_rng(seed)
    values, size = gguf.GGML_QUANT_SIZES[type_]
    blocks = generator.integers(0, 256, (rows * columns // values, size), np.uint8)
    halves = {Type.Q4_K: (0, 2), Type.Q6_K: (208,), Type.IQ4_NL: (0,), Type.Q1_0: (0,)}[type_]
    for at in halves:
        small = (0.001 + 0.01 * generator.random(len(blocks))).astype("<f2")
        blocks[:, at : at + 2] = small.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def stored(weight: NDArray[np.float32], type_: Type, seed: int = 0) -> NDArray[Any]:
    """The matrix as a GGUF holds it."""
    if type_ in (Type.Q4_K, Type.Q6_K, Type.IQ4_NL, Type.Q1_0):
        return random_blocks(type_, *weight.shape, seed)
    return quantize(weight, type_)


def dequantised(data: NDArray[Any], type_: Type, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """float32 of that shape, by the gguf package. (It does not know Q1_0: ggml-quants.c, dequantize_row_q1_0.)"""
    if type_ is not Type.Q1_0:
        return dequantize(data, type_).reshape(shape)
    blocks = data.reshape(-1, 18)
    d = blocks[:, :2].copy().view("<f2").astype(np.float32)
    bits = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little")
    return np.where(bits == 1, d, -d).astype(np.float32).reshape(shape)


def write_gguf(
    path: Path,
    directory: Path,
    types: Callable[[str], Type] = lambda name: Type.F32,
    tokenizer: Edit | None = None,
    edit: Edit | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Writes the checkpoint as a GGUF file. types: of a matrix by its transformers name; vectors are F32.

    Returns what the file holds, dequantised, under transformers' names and in transformers' row order."""
    config = json.loads((directory / "config.json").read_text("utf-8"))
    architecture = ARCHITECTURES[config["model_type"]]
    name = gguf.MODEL_ARCH_NAMES[architecture]
    writer = gguf.GGUFWriter(path, name)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    writer.add_name("A small model")
    writer.add_license("apache-2.0")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    types_of_layers = config.get("layer_types") or []
    writer.add_head_count_kv(
        [0 if kind == "conv" else kv_heads for kind in types_of_layers] if name == "lfm2" else kv_heads
    )
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    writer.add_layer_norm_rms_eps(config["norm_eps"] if name == "lfm2" else config["rms_norm_eps"])
    describe(writer, name, config, rope, head_dim)
    rope = rope.get("full_attention", rope)
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    (tokenizer or small_tokenizer)(writer)
    if edit:
        edit(writer)
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(rope, head_dim))
    if rope.get("rope_type") == "longrope":
        writer.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], np.float32))
        writer.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], np.float32))
    table = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    values = {}
    for index, (source, weight) in enumerate(load_file(directory / "model.safetensors").items()):
        type_ = types(source) if weight.ndim == 2 else Type.F32
        rows = weight.astype(np.float32)
        if name.startswith("gemma") and source.endswith("norm.weight"):
            rows = rows + np.float32(1)
        if "conv.conv" in source:
            rows, type_ = rows.squeeze(1), Type.F32
        permute = 0
        if name in PERMUTED and "q_proj" in source:
            permute = heads
        if name in PERMUTED and "k_proj" in source:
            permute = kv_heads
        data = stored(permuted(rows, permute) if permute else rows, type_, index)
        target = table.get_name(source, try_suffixes=(".weight", ".bias"))
        assert target is not None
        writer.add_tensor(target, data, raw_dtype=type_)
        whole = dequantised(data, type_, rows.shape)
        values[source] = inverse(whole, permute) if permute else whole
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


def describe(writer: gguf.GGUFWriter, name: str, config: dict[str, Any], rope: dict[str, Any], head_dim: int) -> None:
    """The keys in which the architectures differ, as llama.cpp's converter writes them (conversion/*.py)."""
    theta, window = rope.get("rope_theta", config.get("rope_theta", 10000.0)), config.get("sliding_window")
    if name == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if name == "gemma3":
        theta = rope["full_attention"]["rope_theta"]
    if name == "granite":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if name == "minicpm":
        writer.add_embedding_scale(float(config["scale_emb"]))
        writer.add_residual_scale(config["scale_depth"] / config["num_hidden_layers"] ** 0.5)
        writer.add_logit_scale(config["hidden_size"] / config["dim_model_base"])
    if name == "hunyuan-dense":
        theta = theta * rope["alpha"] ** (head_dim / (head_dim - 2))
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        writer.add_rope_scaling_factor(1)
    if name == "exaone4" and window is not None:
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])
    if name == "lfm2":
        writer.add_shortconv_l_cache(config["conv_L_cache"])
    if name == "phi3":
        original = rope.get("original_max_position_embeddings", 4096)
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_sliding_window(window or 0)
        scale = config["max_position_embeddings"] / original
        if rope.get("rope_type") == "longrope":
            factor = np.sqrt(1 + np.log(scale) / np.log(original)) if scale > 1 else 1.0
            writer.add_rope_scaling_attn_factors(float(factor))
    elif name.startswith("gemma") or (name == "exaone4" and window is not None):
        writer.add_sliding_window(window)
    writer.add_rope_freq_base(theta)


def inverse(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """The inverse of `permuted`."""
    order = permuted(np.arange(len(weight)), heads)
    out = np.empty_like(weight)
    out[order] = weight
    return out


def llama3_factors(rope: dict[str, Any], head_dim: int) -> NDArray[np.float32]:
    """rope_freqs.weight as LlamaModel.generate_extra_tensors of llama.cpp's converter makes it."""
    factors = []
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    original = rope["original_max_position_embeddings"]
    for i in range(0, head_dim, 2):
        wave = 2 * np.pi * rope["rope_theta"] ** (i / head_dim)
        if wave < original / high:
            factors.append(1.0)
        elif wave > original / low:
            factors.append(rope["factor"])
        else:
            smooth = (original / wave - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


def small_tokenizer(writer: gguf.GGUFWriter) -> None:
    """A SentencePiece-style vocabulary of 300 tokens, filled up to 512 with unused ones as the converter does."""
    kinds = gguf.TokenType
    tokens = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    pieces = ["\u2581t", "he", "in", "\u2581the", "er", "an", "\u2581an", "on", "\u2581", *"etaoinshrdlucmfwypvbgkqjxz"]
    tokens += [(piece, kinds.NORMAL) for piece in pieces]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(pieces))]
    tokens += [(f"[PAD{number}]", kinds.UNUSED) for number in range(len(tokens), 512)]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_scores(scores + [-1000.0] * (512 - len(scores)))
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
