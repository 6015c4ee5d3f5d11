"""Small checkpoints of every architecture for the tests, and large ones of exact shapes with random weights.

The small ones are made by transformers itself (save_pretrained), so that a test can compare with what it computes. They
carry the tokenizer of data/stories260k (512 tokens).
"""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.paths import SHARED, STORIES

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

YARN_ROPE = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 128}
GRANITE: dict[str, Any] = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.0625,
    "logits_scaling": 8.0,
}
GRANITE4: dict[str, Any] = {
    **GRANITE,
    "layer_types": ["attention"] * 3,
    "num_local_experts": 0,
    "shared_intermediate_size": 140,
    "position_embedding_type": "rope",
    "mamba_n_heads": 4,
}
"""The dense ones; the last key is of layers that they do not have."""
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
GEMMA3: dict[str, Any] = {
    "num_hidden_layers": 6,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "sliding_window": 24,
    "query_pre_attn_scalar": 40,
}
"""Five windows and a layer that sees everything, as the real ones."""
HUNYUAN_ROPE = {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 1000.0, "factor": 1.0}
PHI4: dict[str, Any] = {
    "original_max_position_embeddings": 128,
    "pad_token_id": 0,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "short_factor": [1.0, 1.1, 1.3, 1.6, 2.0, 2.5],
        "long_factor": [1.0, 1.5, 2.5, 4.0, 6.0, 9.0],
        "original_max_position_embeddings": 128,
    },
}

TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-untied-biases": ("Llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
    "llama-llama3-rope": ("Llama", {"rope_parameters": LLAMA3_ROPE, "head_dim": 24}),
    "llama-linear-rope": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "mistral": ("Mistral", {"sliding_window": 24, "tie_word_embeddings": False}),
    "mistral-full": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {}),
    "qwen2-sliding": ("Qwen2", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 0}),
    "qwen3": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": False}),
    "qwen3-biases": ("Qwen3", {"head_dim": 16, "attention_bias": True}),
    "bitnet": ("BitNet", {"hidden_act": "relu2"}),
    "bitnet-silu": ("BitNet", {"hidden_act": "silu"}),
}
"""Name: transformers' class prefix, and what its configuration has beyond the common small shape."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2-mixed": ("Qwen2", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}),
    "qwen3-yarn": ("Qwen3", {"head_dim": 32, "rope_parameters": YARN_ROPE}),
    "granite": ("Granite", GRANITE),
    "granite-untied": ("Granite", {**GRANITE, "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
    "granite4": ("GraniteMoeHybrid", GRANITE4),
    "granite4-unrotated": ("GraniteMoeHybrid", {**GRANITE4, "position_embedding_type": None, "attention_bias": True}),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 4, "pad_token_id": 0}),
    "smollm3-lists": (
        "SmolLM3",
        {"pad_token_id": 0, "no_rope_layers": [0, 1, 1], "use_sliding_window": True, "sliding_window": 24},
    ),
    "ernie": ("Ernie4_5", {"head_dim": 32}),
    "ernie-biases": ("Ernie4_5", {"head_dim": 16, "use_bias": True, "tie_word_embeddings": False}),
    "gemma3": ("Gemma3", GEMMA3),
    "gemma3-linear": ("Gemma3", {**GEMMA3, "rope_parameters": GEMMA3_ROPE, "attention_bias": True}),
    "olmo2": ("Olmo2", {"tie_word_embeddings": False}),
    "exaone4": ("Exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 3}),
    "exaone4-hybrid": ("Exaone4", {"num_hidden_layers": 4, "sliding_window": 24, "sliding_window_pattern": 4}),
    "hunyuan": ("HunYuanDenseV1", {"head_dim": 32, "rope_parameters": HUNYUAN_ROPE}),
    "phi3": ("Phi3", {"tie_word_embeddings": False, "pad_token_id": 0, "sliding_window": 24}),
    "phi4": ("Phi3", PHI4),
}
"""The same of families that differ from Llama in what they compute, not only in biases and norms."""

LFM2: dict[str, Any] = {"num_hidden_layers": 4, "block_auto_adjust_ff_dim": False}
GEMMA2: dict[str, Any] = {
    "num_hidden_layers": 4,
    "head_dim": 32,
    "sliding_window": 24,
    "query_pre_attn_scalar": 40,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
}
VARIANTS |= {
    "gemma2": ("Gemma2", GEMMA2),
    "lfm2": ("Lfm2", {**LFM2, "layer_types": ["conv", "conv", "full_attention", "conv"]}),
    "lfm2-published": (
        "Lfm2",
        {
            "num_hidden_layers": 4,
            "full_attn_idxs": [1],
            "block_ff_dim": 250,
            "block_multiple_of": 16,
            "conv_L_cache": 5,
        },
    ),
}
"""Their norms are before each half; lfm2-published has the keys of the published config.json."""

ALL = TINY | VARIANTS


CONFIGS = {"Gemma3": "Gemma3TextConfig"}
"""Configuration classes that are not named as their models are."""


def tiny_config(name: str) -> Any:
    """transformers' configuration object of a small model."""
    import transformers

    prefix, extra = ALL[name]
    common: dict[str, Any] = {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.08,
    }
    return getattr(transformers, CONFIGS.get(prefix, f"{prefix}Config"))(**{**common, **extra})


def tiny_model(name: str, seed: int = 0) -> Any:
    """transformers' model with random weights, float32; norms and biases random too, so that none goes unnoticed."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = tiny_config(name)
    if ALL[name][0] == "Gemma2":
        config._attn_implementation = "eager"  # the only one that caps scores
    plain = 0 if ALL[name][0].startswith("Gemma") else 1  # what a norm's weights are that does nothing
    model = getattr(transformers, f"{ALL[name][0]}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("norm.weight"):
                value.copy_(plain + 0.2 * torch.randn_like(value))
            elif key.endswith("conv.conv.weight"):
                value.copy_(torch.randn_like(value))
            elif key.endswith(".bias"):
                value.copy_(0.2 * torch.randn_like(value))
    return model


def write_tiny(directory: Path, name: str, dtype: str = "float32", seed: int = 0, shard: str = "5GB") -> Path:
    """Saves tiny_model with a tokenizer. dtype: float32, float16 or bfloat16; shard: the most bytes of one file."""
    import torch

    model = tiny_model(name, seed).to(getattr(torch, dtype))
    model.save_pretrained(directory, max_shard_size=shard)
    copy_tokenizer(STORIES, directory)
    return directory


def copy_tokenizer(source: Path, directory: Path) -> None:
    """Tokenizer files that are at hand."""
    for file in ("tokenizer.json", "tokenizer_config.json"):
        if (source / file).is_file():
            shutil.copyfile(source / file, directory / file)


def write_byte_tokenizer(directory: Path) -> None:
    """A tokenizer.json whose 256 tokens are the bytes, in place of what is there."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = [*map(chr, printable), *(chr(256 + i) for i in range(len(others)))]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {character: i for i, character in enumerate(alphabet)}, "merges": []},
    }  # fmt: skip
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    (directory / "tokenizer_config.json").unlink(missing_ok=True)


@functools.cache
def byte_tokenizer_bin() -> bytes:
    """A tokenizer.bin whose 256 tokens are the bytes."""
    from mobile_bundle.tokenizer import compile_tokenizer

    with tempfile.TemporaryDirectory() as directory:
        write_byte_tokenizer(Path(directory))
        return bytes(compile_tokenizer(Path(directory), {}).data)


def rename_tensors(directory: Path, names: Callable[[str], str | None], **config: Any) -> None:
    """Gives a checkpoint's tensors other names (None: without it), and sets keys of its config.json (None: drops)."""
    from safetensors.numpy import load_file, save_file

    held = load_file(directory / "model.safetensors")
    save_file(
        {new: value for name, value in held.items() if (new := names(name)) is not None},
        directory / "model.safetensors",
        {"format": "pt"},
    )
    values = json.loads((directory / "config.json").read_text("utf-8")) | config
    values = {key: value for key, value in values.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(values), "utf-8")


def pack_bitnet(source: Path, directory: Path, linear_class: str = "autobitlinear") -> Path:
    """A BitNet checkpoint of float32 master weights as a packed uint8 checkpoint with weight_scale (NumPy only).

    "autobitlinear" stores the scale that multiplies, "bitlinear" its reciprocal."""
    from safetensors.numpy import load_file, save_file

    directory.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, NDArray[Any]] = {}
    for name, value in load_file(source / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            tensors[name] = value
            continue
        inverse = np.float32(1) / np.float32(max(np.abs(value).mean(dtype=np.float64), 1e-5))
        codes = (np.clip(np.rint(value * inverse), -1, 1) + 1).astype(np.uint8)
        q = codes.reshape(4, -1, codes.shape[1])
        tensors[name] = q[0] | q[1] << 2 | q[2] << 4 | q[3] << 6
        scale = np.float32(1) / inverse if linear_class == "autobitlinear" else inverse
        tensors[f"{name}_scale"] = np.array([scale], np.float32)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text("utf-8"))
    config["quantization_config"] = {
        "quant_method": "bitnet",
        "linear_class": linear_class,
        "quantization_mode": "offline",
    }
    (directory / "config.json").write_text(json.dumps(config), "utf-8")
    copy_tokenizer(source, directory)
    return directory


QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "max_window_layers": 21,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-1.5b": {
        **QWEN2,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "small": {
        **QWEN2,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "llama-2-7b": {
        **LLAMA,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "small-llama": {
        **LLAMA,
        "hidden_size": 128,
        "intermediate_size": 344,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
}
TOKENIZERS = {"qwen2": "tokenizers/qwen2.5", "llama": "models/base"}
"""Where in ../shared a family's tokenizer lies. Llama-2's is not at hand: one of 16,384 tokens stands in for it."""


def write_synthetic(directory: Path, shape: str = "qwen2.5-1.5b", seed: int = 0, shard: float = 5e9) -> Path:
    """A checkpoint with Gaussian bf16 weights in the exact names and shapes of Qwen2.5-1.5B (3.1 GB), of Llama-2-7B
    (13.5 GB in three shards with an index), or smaller.

    Streamed; the Gaussian block is made once and tiled from changing offsets. shard: the most bytes of one file, though
    a tensor is never cut. Needs the tokenizer in ../shared."""
    directory.mkdir(parents=True, exist_ok=True)
    config = SHAPES[shape]
    (directory / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
    generation = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}
    if config["model_type"] == "qwen2":
        generation = {
            "bos_token_id": 151643,
            "eos_token_id": [151645, 151643],
            "temperature": 0.7,
            "top_p": 0.8,
            "top_k": 20,
        }
    (directory / "generation_config.json").write_text(json.dumps(generation), "utf-8")
    copy_tokenizer(SHARED / TOKENIZERS[config["model_type"]], directory)
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    room = shard
    for name, sizes in _synthetic_tensors(config):
        size = 2 * int(np.prod(sizes))
        if size > room and shards[-1]:
            shards.append([])
            room = shard
        shards[-1].append((name, sizes))
        room -= size
    generator = np.random.default_rng(seed)
    block = _bfloat16(generator.standard_normal(1 << 22, np.float32) * np.float32(0.02))
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for name, tensors in zip(names, shards, strict=True):
        _write_shard(directory / name, tensors, block, generator)
    if len(shards) > 1:
        weight_map = {tensor: name for name, tensors in zip(names, shards, strict=True) for tensor, _ in tensors}
        total = sum(2 * int(np.prod(sizes)) for tensors in shards for _, sizes in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), "utf-8")
    return directory


def _write_shard(
    path: Path, tensors: list[tuple[str, tuple[int, ...]]], block: NDArray[np.uint16], generator: np.random.Generator
) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, sizes in tensors:
        size = 2 * int(np.prod(sizes))
        header[name] = {"dtype": "BF16", "shape": list(sizes), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % 8)
    ones = _bfloat16(np.ones(1 << 16, np.float32))
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, sizes in tensors:
            left = int(np.prod(sizes))
            source = ones if name.endswith("norm.weight") else block
            while left:
                start = int(generator.integers(len(source) // 2)) if source is block else 0
                part = source[start : start + left]
                file.write(part.data)
                left -= len(part)


def _synthetic_tensors(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, feed = config["hidden_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    biases = config["model_type"] == "qwen2"
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield f"{prefix}input_layernorm.weight", (hidden,)
        for name, rows, columns in (("gate", feed, hidden), ("up", feed, hidden), ("down", hidden, feed)):
            yield f"{prefix}mlp.{name}_proj.weight", (rows, columns)
        yield f"{prefix}post_attention_layernorm.weight", (hidden,)
        for name, rows in (("q", hidden), ("k", keys), ("v", keys)):
            if biases:
                yield f"{prefix}self_attn.{name}_proj.bias", (rows,)
            yield f"{prefix}self_attn.{name}_proj.weight", (rows, hidden)
        yield f"{prefix}self_attn.o_proj.weight", (hidden, hidden)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Bits of bfloat16, cut off."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)
