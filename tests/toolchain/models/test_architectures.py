"""Every architecture end to end: a checkpoint that transformers saved, our weights of it, the engine's logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.native.engine import Model
from mobile_bundle.pipeline.weights import build_weights
from support.checkpoints import ALL, pack_bitnet, tiny_model, write_tiny

torch = pytest.importorskip("torch")

IDS = np.random.default_rng(3).integers(0, 512, 60).astype(np.int32)


SHARP = {"qwen3-yarn": 6e-3, "hunyuan": 6e-3, "ernie": 3e-3}
"""Heads that look at few positions: the fp16 of keys and values weighs more. test_families.py takes it out."""


def engine_logits(weights: Path) -> np.ndarray:
    with Model(weights) as model, model.session(kv_type="f16", prefill_chunk=64, all_logits=True) as session:
        return session.feed_all(IDS).copy()


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("name", [name for name in ALL if name != "bitnet"])
def test_logits_are_those_of_transformers(tmp_path, name):
    write_tiny(tmp_path, name, dtype="bfloat16")
    build_weights(tmp_path, "raw", tmp_path / "weights.ptd")
    reference = tiny_model(name).to(torch.bfloat16).float()
    with torch.no_grad():
        expected = reference(torch.from_numpy(IDS.astype(np.int64))[None]).logits[0].numpy()
    assert relative(engine_logits(tmp_path / "weights.ptd"), expected) < SHARP.get(name, 2e-3)


def ternarise(model) -> None:
    """BitNet as transformers runs it online: ternary weights (absmean), inputs rounded to int8 per token."""

    def rounded(module, inputs):
        x = inputs[0]
        scale = 127 / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)
        return ((x * scale).round().clamp(-128, 127) / scale,)

    for name, module in model.named_modules():
        if name.endswith("_proj"):
            scale = module.weight.data.abs().mean().clamp(min=1e-5)
            module.weight.data = (module.weight.data / scale).round().clamp(-1, 1) * scale
            module.register_forward_pre_hook(rounded)


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
