"""Compares the engine with transformers on published configurations: full width, few layers, random weights.

    .venv/bin/python scripts/check_published.py [NAME ...] [--folder FOLDER]

NAME: of planning/shapes.json (`mobile-bundle estimate --help` lists them); default: one of each family. The model has
as many layers as show every kind that the family has, two at least. Its checkpoint lies in FOLDER while it is needed
(up to 2 GB; the larger families take 12 GB of memory). The text is longer than the window; windows of more than 1,024
positions are cut to 512, which the line says.

Printed is a line a model, the figures being norms of differences, relative to the logits:
- transformers: the engine (raw weights, an f16 cache, chunks of 64) against transformers' own class in float32
- with its cache: the same, keys and values rounded to float16 in transformers, too. The bar is for this one.
- bits: whether decoding token by token and chunks of 256 give the bits that chunks of 64 give

Status 1: one is beyond its bar, or bits differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from mobile_bundle.models import open_model
from mobile_bundle.models.config import Config
from mobile_bundle.models.registry import ARCHITECTURES, architecture
from mobile_bundle.models.spec import DecoderSpec
from mobile_bundle.native.engine import Model
from mobile_bundle.pipeline.weights import build_weights
from mobile_bundle.planning.estimate import published_config, shape_names
from numpy.typing import NDArray
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.ternary import ternarise

PIECE = 64
"""Tokens at the start and at the end of the text whose logits are compared."""
MOST = 256
"""Tokens that the engine takes at once."""
BAR, TERNARY_BAR = 2e-3, 5e-2
"""A ternary model's activations are int8: one code that rounds the other way moves the logits of random weights."""
LONGEST_WINDOW, CUT_WINDOW = 1024, 512
FALCON = "falcon3-1b-1.58"
"""A Llama whose projections are BitNet's. Falcon-E is another size of the same."""
FALCON_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 18,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "intermediate_size": 8192,
    "vocab_size": 131072, "max_position_embeddings": 8192, "rope_theta": 1000042.0, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "quantization_config": {
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online",
    },
}  # fmt: skip
LISTS = ("layer_types", "no_rope_layers")
"""Keys of config.json with a value for every layer."""


def spec_of(config: dict[str, Any]) -> DecoderSpec:
    return ARCHITECTURES[architecture(config)](Config(config))


def first_layers(config: dict[str, Any], layers: int) -> dict[str, Any]:
    """The configuration cut to its first layers."""
    cut = {key: value[:layers] if key in LISTS else value for key, value in config.items()}
    if "full_attn_idxs" in config:
        cut["full_attn_idxs"] = [layer for layer in config["full_attn_idxs"] if layer < layers]
    return {**cut, "num_hidden_layers": layers}


def kinds(spec: DecoderSpec, layers: int) -> set[tuple[bool, bool, bool]]:
    """What the first layers are: with a window, without positions, a convolution."""
    return {
        (spec.window_of(layer) > 0, layer in spec.unrotated_layers, layer in spec.convolution_layers)
        for layer in range(layers)
    }


def shortened(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the fewest layers, and a window that a short text leaves behind."""
    spec = spec_of(config)
    layers = next(n for n in range(2, spec.layers + 1) if kinds(spec, n) == kinds(spec, spec.layers))
    config = first_layers(config, layers)
    if spec.sliding_window > LONGEST_WINDOW:
        config["sliding_window"] = CUT_WINDOW
    return config


def reference_config(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of transformers that computes the same: it has no class of two of the families, and turns a
    quantised Llama's layers into others."""
    kind = config["architectures"][0]
    if kind == "MiniCPMForCausalLM":
        head_dim = config["hidden_size"] // config["num_attention_heads"]
        return {**config, "architectures": ["GraniteForCausalLM"], "model_type": "granite", "tie_word_embeddings": True,
                "embedding_multiplier": config["scale_emb"], "attention_multiplier": head_dim**-0.5,
                "residual_multiplier": config["scale_depth"] / config["num_hidden_layers"] ** 0.5,
                "logits_scaling": config["hidden_size"] / config["dim_model_base"]}  # fmt: skip
    if kind == "BitnetForCausalLM":
        return {**config, "architectures": ["BitNetForCausalLM"], "model_type": "bitnet"}
    return {key: value for key, value in config.items() if key != "quantization_config"}


def stored_name(config: dict[str, Any], name: str) -> str:
    """A tensor's name in the family's checkpoint."""
    if config["architectures"][0] == "BitnetForCausalLM":
        return name.replace("attn_sub_norm", "inner_attn_ln").replace("ffn_sub_norm", "ffn_layernorm")
    return name


def random_model(config: dict[str, Any], folder: Path) -> Any:
    """transformers' model of a config.json in a folder, float32 values that bfloat16 holds, norms random as well."""
    torch.manual_seed(0)
    (folder / "config.json").write_text(json.dumps(reference_config(config)))
    loaded = transformers.AutoConfig.from_pretrained(folder)
    model: Any = transformers.AutoModelForCausalLM.from_config(loaded, attn_implementation="eager", dtype=torch.float32)
    plain = 0 if config["architectures"][0].startswith("Gemma") else 1  # the weights of a norm that does nothing
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("norm.weight"):
                value.copy_(plain + 0.2 * torch.randn_like(value))
            elif name.endswith("conv.conv.weight"):
                value.copy_(torch.randn_like(value))
            elif name.endswith(".bias"):
                value.copy_(0.2 * torch.randn_like(value))
            value.copy_(value.bfloat16())
        for name, value in model.named_buffers():
            if name.endswith("embed_scale"):  # Gemma's, which a model in bfloat16 keeps so
                value.copy_(value.bfloat16())
    return model.eval()


def write_checkpoint(model: Any, config: dict[str, Any], folder: Path) -> None:
    tied = model.config.tie_word_embeddings
    tensors = {
        stored_name(config, name): value.bfloat16().contiguous()
        for name, value in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


@contextmanager
def half_cache(model: Any) -> Iterator[None]:
    """transformers with keys and values as an f16 cache holds them."""
    module: Any = sys.modules[type(model).__module__]
    original = module.eager_attention_forward

    def rounded(layer: Any, q: Any, k: Any, v: Any, *arguments: Any, **more: Any) -> Any:
        return original(layer, q, k.half().float(), v.half().float(), *arguments, **more)

    module.eager_attention_forward = rounded
    try:
        yield
    finally:
        module.eager_attention_forward = original


def expected(model: Any, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Logits of the first and the last PIECE tokens."""
    keep = torch.cat([torch.arange(PIECE), torch.arange(len(ids) - PIECE, len(ids))])
    with torch.no_grad():
        found = model(torch.from_numpy(ids.astype(np.int64))[None], logits_to_keep=keep, use_cache=False)
    logits: NDArray[np.float32] = found.logits[0].numpy()
    return logits


def compare(weights: Path, ids: NDArray[np.int32]) -> tuple[NDArray[np.float32], bool]:
    """The engine's logits of the same tokens, and whether every order of feeding gives their bits."""
    with Model(weights) as model:
        with model.session(context=len(ids), kv_type="f16", prefill_chunk=PIECE, all_logits=True) as session:
            first = session.feed_all(ids[:PIECE]).copy()
            for begin in range(PIECE, len(ids) - PIECE, PIECE):
                session.feed_all(ids[begin : min(begin + PIECE, len(ids) - PIECE)])
            last = session.feed_all(ids[-PIECE:]).copy()
        with model.session(context=len(ids), kv_type="f16", prefill_chunk=PIECE) as session:
            session.feed(ids[:-PIECE])
            decoded = all(np.array_equal(session.feed(ids[at : at + 1]), last[at]) for at in range(-PIECE, -1))
        with model.session(context=len(ids), kv_type="f16", prefill_chunk=MOST) as session:
            large = np.array_equal(session.feed(ids), last[-1])
    return np.concatenate([first, last]), decoded and large


def relative(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The largest of any token: the norm of its logits' differences by the norm of its logits."""
    return float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max())


def check(name: str, folder: Path) -> bool:
    began = time.monotonic()
    published = FALCON_CONFIG if name == FALCON else published_config(name)
    config = shortened(published)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        model = random_model(config, Path(scratch))
        write_checkpoint(model, config, Path(scratch))
        with open_model(scratch) as opened:
            spec = replace(opened.spec)
        weights = Path(scratch) / "weights.ptd"
        build_weights(scratch, "raw", weights)
        if spec.ternary:
            ternarise(model)
        count = max(2 * PIECE + 16, spec.sliding_window + 2 * PIECE + 16)
        ids = np.random.default_rng(0).integers(0, spec.vocabulary, count).astype(np.int32)
        plain = expected(model, ids)
        with half_cache(model):
            rounded = expected(model, ids)
        del model
        logits, same = compare(weights, ids)
    bar = TERNARY_BAR if spec.ternary else BAR
    error, exact = relative(logits, plain), relative(logits, rounded)
    good = exact < bar and same
    window = f", window {spec.sliding_window}" if spec.sliding_window else ""
    if config.get("sliding_window") != published.get("sliding_window"):
        window += f" (published: {published['sliding_window']})"
    print(
        f"{name:15} {spec.architecture:28} {spec.layers} layers of {spec.hidden}, vocabulary {spec.vocabulary}"
        f"{window}, {count} tokens: transformers {error:.1e}, with its cache {exact:.1e} (bar {bar:.0e}), "
        f"bits {'equal' if same else 'DIFFER'}; {'passed' if good else 'FAILED'} in {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return good


def one_of_each() -> list[str]:
    """The smallest published shape of each family, Gemma 3's two, and ternary Falcon."""
    smallest: dict[str, str] = {}
    for name in shape_names():
        smallest.setdefault(architecture(published_config(name)), name)
    return [*smallest.values(), "gemma-3-1b", FALCON]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: one of each family")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where checkpoints lie")
    options = parser.parse_args()
    passed = [check(name, options.folder) for name in options.names or one_of_each()]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
