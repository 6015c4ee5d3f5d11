"""Every architecture end to end: a checkpoint that transformers saved, our weights of it, the engine's logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.errors import UserError
from mobile_bundle.models import open_model
from mobile_bundle.native.engine import Model
from mobile_bundle.pipeline.weights import build_weights
from mobile_bundle.planning.exact import exact_codecs
from safetensors.torch import load_file, save_file
from support.checkpoints import ALL, pack_bitnet, rename_tensors, tiny_model, write_tiny
from support.ternary import ternarise

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

IDS = np.random.default_rng(3).integers(0, 512, 60).astype(np.int32)


SHARP = {"qwen3-yarn": 6e-3, "hunyuan": 6e-3, "ernie": 3e-3}
"""Heads that look at few positions: the fp16 of keys and values weighs more. test_families.py takes it out."""


def engine_logits(weights: Path) -> np.ndarray:
    with Model(weights) as model, model.session(kv_type="f16", prefill_chunk=64, all_logits=True) as session:
        return session.feed_all(IDS).copy()


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("bitnet")])
def test_logits_are_those_of_transformers(tmp_path, name):
    write_tiny(tmp_path, name, dtype="bfloat16")
    build_weights(tmp_path, "raw", tmp_path / "weights.ptd")
    reference = tiny_model(name).to(torch.bfloat16).float()
    with torch.no_grad():
        expected = reference(torch.from_numpy(IDS.astype(np.int64))[None]).logits[0].numpy()
    assert relative(engine_logits(tmp_path / "weights.ptd"), expected) < SHARP.get(name, 2e-3)


@pytest.mark.parametrize("recipe", ["raw", None])
@pytest.mark.parametrize("packed", [False, True])
def test_bitnet_logits(tmp_path, recipe, packed):
    """Master weights or the packed layout, kept as bf16 or as 2-bit ternary: BitNet's own arithmetic every time."""
    source = write_tiny(tmp_path / "master", "bitnet")
    model = tiny_model("bitnet")
    ternarise(model)
    with torch.no_grad():
        expected = model(torch.from_numpy(IDS.astype(np.int64))[None]).logits[0].numpy()
    checkpoint = pack_bitnet(source, tmp_path / "packed") if packed else source
    build_weights(checkpoint, recipe, tmp_path / "weights.ptd")
    # The embedding is rounded (bf16 or 8 bits), and one changed int8 code moves a logit of a random model visibly.
    assert relative(engine_logits(tmp_path / "weights.ptd"), expected) < 5e-2


def bitnet_expected(model) -> np.ndarray:
    ternarise(model)
    with torch.no_grad():
        return model(torch.from_numpy(IDS.astype(np.int64))[None]).logits[0].numpy()


def of_1bitllm(name: str) -> str:
    return name.replace("attn_sub_norm", "inner_attn_ln").replace("ffn_sub_norm", "ffn_layernorm")


def test_the_first_bitnets(tmp_path):
    """1bitLLM's BitnetForCausalLM is not in transformers. It is transformers' BitNet with SiLU and other names, under
    the model_type of Llama."""
    expected = bitnet_expected(tiny_model("bitnet-silu"))
    checkpoint = write_tiny(tmp_path, "bitnet-silu")
    as_published = {"architectures": ["BitnetForCausalLM"], "model_type": "llama", "weight_bits": 1, "input_bits": 8}
    rename_tensors(checkpoint, of_1bitllm, head_dim=None, **as_published)
    build_weights(checkpoint, "raw", tmp_path / "weights.ptd")
    with open_model(checkpoint) as model:
        assert model.spec.architecture == "BitnetForCausalLM"
        assert model.notes == []
    assert relative(engine_logits(tmp_path / "weights.ptd"), expected) < 5e-2


def test_the_first_bitnets_with_other_bits_are_refused(tmp_path):
    checkpoint = write_tiny(tmp_path, "bitnet-silu")
    rename_tensors(checkpoint, of_1bitllm, architectures=["BitnetForCausalLM"], model_type="llama", input_bits=4)
    with pytest.raises(UserError, match=r"input_bits 4 in config\.json is not supported; BitNet b1.58 has 8"):
        open_model(checkpoint)


def test_bitnet_without_sub_norms(tmp_path):
    """It is a Llama with squared ReLU whose projections are BitNet's."""
    checkpoint = write_tiny(tmp_path, "bitnet")
    rename_tensors(checkpoint, lambda name: None if "sub_norm" in name else name)
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**{**tiny_model("bitnet").config.to_dict(), "model_type": "llama"})
    ).eval()
    missing, unexpected = llama.load_state_dict(load_file(checkpoint / "model.safetensors"), strict=False)
    assert missing == ["lm_head.weight"]
    assert unexpected == []
    llama.tie_weights()
    build_weights(checkpoint, "raw", tmp_path / "weights.ptd")
    assert relative(engine_logits(tmp_path / "weights.ptd"), bitnet_expected(llama)) < 5e-2
    with open_model(checkpoint) as model:
        assert any("so the model has none" in note for note in model.notes)
    some = write_tiny(tmp_path / "some", "bitnet")
    rename_tensors(some, lambda name: None if "layers.0.self_attn.attn_sub_norm" in name else name)
    with pytest.raises(UserError, match=r"has no tensor model.layers.0.self_attn.attn_sub_norm.weight"):
        open_model(some)


@pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear"])
def test_falcon_e(tmp_path, linear_class):
    """A Llama whose projections are packed BitNet's; its bfloat16 revision has them multiplied out, as plain Llama, and
    is stored in 2 bits without loss all the same."""
    source = write_tiny(tmp_path / "master", "llama")
    packed = pack_bitnet(source, tmp_path / "packed", linear_class)
    rename_tensors(packed, lambda name: name, architectures=["LlamaForCausalLM"])
    build_weights(packed, "raw", tmp_path / "weights.ptd")
    expected = bitnet_expected(tiny_model("llama"))
    assert relative(engine_logits(tmp_path / "weights.ptd"), expected) < 5e-2
    plain = write_tiny(tmp_path / "plain", "llama")
    held = load_file(plain / "model.safetensors")
    for name, value in held.items():
        if name.endswith("_proj.weight"):
            scale = value.abs().mean().to(torch.bfloat16)
            held[name] = (value / scale).round().clamp(-1, 1).to(torch.bfloat16) * scale
    save_file(held, plain / "model.safetensors", {"format": "pt"})
    with open_model(plain) as model:
        found = exact_codecs(model)
        assert {found[tensor.name].name for tensor in model.tensors if tensor.role == "body"} == {"bitnet"}
