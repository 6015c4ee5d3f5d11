"""Families that compute something else than Llama does: what the engine makes of them, in every order of feeding, with
windows that the text leaves behind, and with what the configuration of each says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.errors import UserError
from mobile_bundle.models import granite, lfm2, open_model
from mobile_bundle.models.config import Config
from mobile_bundle.models.spec import DecoderSpec, ModelConfig
from mobile_bundle.native.engine import Model, estimate_memory
from mobile_bundle.pipeline.weights import build_weights
from mobile_bundle.planning.memory import mapped_weights
from support.checkpoints import ALL, VARIANTS, tiny_model, write_tiny
from support.logits import decoder_logits
from support.paths import ROOT

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

IDS = np.random.default_rng(3).integers(0, 512, 120).astype(np.int32)
"""Five times as many as the window of the small models."""
WINDOW = 24
WINDOWED = ("qwen2-mixed", "smollm3-lists", "gemma3", "gemma3-linear", "exaone4-hybrid", "phi3", "mistral", "gemma2")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """weights.ptd of a small model, built once; beside it lies its checkpoint."""
    made: dict[tuple[str, str], Path] = {}

    def make(name: str, recipe: str = "raw") -> Path:
        if (name, recipe) not in made:
            directory = write_tiny(tmp_path_factory.mktemp(name), name, dtype="bfloat16")
            build_weights(directory, recipe, directory / "weights.ptd")
            made[name, recipe] = directory / "weights.ptd"
        return made[name, recipe]

    return make


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("name", VARIANTS)
def test_the_engine_is_the_decoder_in_torch(weights: Callable[..., Path], name: str) -> None:
    """Which test_calibration.py compares with transformers. Both keep keys and values as fp16 here: in models whose
    heads are normed, that rounding is all that parts the engine from transformers."""
    path = weights(name)
    with Model(path) as model, model.session(kv_type="f16", prefill_chunk=120, all_logits=True) as session:
        logits = session.feed_all(IDS).copy()
    assert relative(logits, decoder_logits(path.parent, IDS, half_cache=True)) < 5e-4


@pytest.mark.parametrize("name", VARIANTS)
def test_four_bits(weights: Callable[..., Path], name: str) -> None:
    """Against the decoder in torch with the weights that the bundle holds: int8 activations and cache are the rest."""
    path = weights(name, "affine-4bit")
    with Model(path) as model, model.session(prefill_chunk=120, all_logits=True) as session:
        logits = session.feed_all(IDS).copy()
    assert relative(logits, decoder_logits(path.parent, IDS, weights=path)) < 5e-2


@pytest.mark.parametrize("recipe", ["raw", "affine-4bit"])
@pytest.mark.parametrize("kv_type", ["int8", "k8v4", "int4", "f16"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_order_of_feeding_gives_the_same_bits(
    weights: Callable[..., Path], name: str, kv_type: str, recipe: str
) -> None:
    """Decode, chunks, all at once: the rings of windowed layers have another length each time."""
    logits = []
    for kernels, threads, chunk in (("scalar", 1, 120), (None, 1, 1), (None, 2, 32), (None, 2, 7)):
        with (
            Model(weights(name, recipe), kernels) as model,
            model.session(context=128, threads=threads, prefill_chunk=chunk, kv_type=kv_type) as session,
        ):
            logits.append(session.feed(IDS).copy())
    for other in logits[1:]:
        np.testing.assert_array_equal(logits[0], other)


@pytest.mark.parametrize("name", WINDOWED)
def test_a_window_takes_the_memory_of_a_window(weights: Callable[..., Path], name: str) -> None:
    with open_model(weights(name).parent) as opened:
        spec = opened.spec
    windowed = sum(spec.window_of(layer) > 0 for layer in range(spec.layers))
    assert windowed > 0
    vector = (spec.head_dim + 31) // 32 * 34
    for context in (16, 128, 512):
        found = estimate_memory(spec.to_config_bytes(), context, 1)
        kept = min(context, -(-(WINDOW + 31) // 64) * 64)  # whole tiles of positions
        expected = 2 * spec.kv_heads * vector * ((spec.layers - windowed) * context + windowed * kept)
        assert expected <= found.kv_bytes <= expected + 4 * 64
        growing = spec.layers - windowed if kept < context else spec.layers
        assert found.kv_bytes_per_token == 2 * spec.kv_heads * vector * growing


@pytest.mark.parametrize("name", WINDOWED)
def test_rewinding_is_exact_or_refused(weights: Callable[..., Path], name: str) -> None:
    """A ring of 24 + 7 positions: the last eight can be taken back, what lies before starts again."""
    with Model(weights(name)) as model, model.session(context=128, prefill_chunk=8) as session:
        expected = session.feed(IDS).copy()
        session.rewind(0)
        session.feed(IDS[:90])
        assert session.rewind_point(82) == 82
        session.rewind(82)
        np.testing.assert_array_equal(session.feed(IDS[82:]), expected)
        assert session.rewind_point(60) == 0
        with pytest.raises(UserError, match=r"cannot rewind from token 120 to 60.*window of 24.*rewind to 0"):
            session.rewind(60)
        assert session.position == 120
        session.rewind(0)
        session.feed(IDS[:20])
        session.rewind(10)  # nothing has been written over since the beginning
        np.testing.assert_array_equal(session.feed(IDS[10:]), expected)


CONVOLUTIONS = {"lfm2": 3, "lfm2-published": 5}


@pytest.mark.parametrize(("name", "taps"), CONVOLUTIONS.items())
def test_a_convolution_takes_the_memory_of_what_it_sees(weights: Callable[..., Path], name: str, taps: int) -> None:
    with open_model(weights(name).parent) as opened:
        spec = opened.spec
    assert len(spec.convolution_layers) == 3
    for context in (16, 128, 512):
        found = estimate_memory(spec.to_config_bytes(), context, 1)
        vectors = 2 * spec.kv_heads * (32 + 2)  # of the one layer with attention
        expected = context * vectors + 3 * (taps - 1 + 32) * spec.hidden * 4
        assert expected <= found.kv_bytes <= expected + 5 * 64
        assert found.kv_bytes_per_token == vectors


@pytest.mark.parametrize(("name", "taps"), CONVOLUTIONS.items())
def test_convolutions_rewind_as_far_as_they_keep(weights: Callable[..., Path], name: str, taps: int) -> None:
    """A chunk can be taken back, to its last bit, and what lies before starts again."""
    with Model(weights(name)) as model, model.session(context=128, prefill_chunk=8) as session:
        expected = session.feed(IDS).copy()
        session.rewind(0)
        session.feed(IDS[:90])
        session.rewind(82)
        np.testing.assert_array_equal(session.feed(IDS[82:]), expected)
        assert session.rewind_point(112) == 112
        assert session.rewind_point(111) == 0
        message = rf"cannot rewind from token 120 to 111.*convolution of {taps}.*rewind to 0"
        with pytest.raises(UserError, match=message):
            session.rewind(111)
        session.rewind(112)
        session.feed(IDS[:3])  # other tokens, which are taken back, too
        session.rewind(112)
        np.testing.assert_array_equal(session.feed(IDS[112:]), expected)
        session.rewind(0)
        session.feed(IDS[:7])
        session.rewind(1)
        np.testing.assert_array_equal(session.feed(IDS[1:]), expected)


def test_convolutions_mapped_layer_by_layer(weights: Callable[..., Path]) -> None:
    """The same bits, and what the toolchain predicts of it is what the engine says."""
    path = weights("lfm2", "affine-4bit")
    with Model(path) as model, model.session(context=128) as session:
        expected = session.feed(IDS).copy()
    with Model(path, mapping="layers") as model, model.session(context=128) as session:
        np.testing.assert_array_equal(session.feed(IDS), expected)
        memory = session.memory()
    with WeightsReader(path) as reader:
        mapped = mapped_weights({entry.name: entry.header for entry in reader.entries}, path.stat().st_size)
    assert (mapped.touched, mapped.layered) == (memory.touched_file_bytes, memory.resident_file_bytes)


def test_soft_caps_hold(weights: Callable[..., Path]) -> None:
    """Scores and logits far beyond their caps: both come near, and none goes beyond."""
    with Model(weights("gemma2")) as model, model.session(prefill_chunk=120, all_logits=True) as session:
        logits = session.feed_all(IDS).copy()
    assert 1 < np.abs(logits).max() <= 3


def test_lfm2_as_it_is_published() -> None:
    """The keys of LiquidAI/LFM2-350M's config.json, from before transformers 5."""
    spec = lfm2.read(
        Config(
            {
                "block_auto_adjust_ff_dim": True, "block_dim": 1024, "block_ff_dim": 6656,
                "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256, "conv_L_cache": 3, "conv_bias": False,
                "full_attn_idxs": [2, 5, 8, 10, 12, 14], "hidden_size": 1024, "max_position_embeddings": 128000,
                "norm_eps": 1e-5, "num_attention_heads": 16, "num_hidden_layers": 16, "num_key_value_heads": 8,
                "rope_theta": 1000000.0, "vocab_size": 65536,
            }
        )
    )  # fmt: skip
    assert spec.tied
    assert spec.feed_forward == 4608
    assert spec.convolution_layers == {0, 1, 3, 4, 6, 7, 9, 11, 13, 15}
    found = estimate_memory(spec.to_config_bytes(), 2048, 1).kv_bytes
    assert found == 6 * 2048 * 8 * 2 * (64 + 4) + 10 * 34 * 1024 * 4


def test_full_caches_rewind_anywhere(weights: Callable[..., Path]) -> None:
    with Model(weights("granite")) as model, model.session(context=128) as session:
        session.feed(IDS)
        assert session.rewind_point(3) == 3


@pytest.mark.parametrize("name", ALL)
def test_the_configuration_comes_back(tmp_path: Path, name: str) -> None:
    with open_model(write_tiny(tmp_path, name)) as opened:
        spec = opened.spec
    config = ModelConfig.parse(spec.to_config_bytes())
    for field in (
        "input_norms",
        "output_norms",
        "wide_qk_norms",
        "late_qk_norms",
        "full_layers",
        "unrotated_layers",
        "convolution_layers",
        "taps",
    ):
        assert getattr(config, field) == getattr(spec, field)
    for field in ("embedding_scale", "residual_scale", "rotary_scale", "score_cap", "logit_cap"):
        assert getattr(config, field) == np.float32(getattr(spec, field))
    assert config.query_scale == pytest.approx(spec.score_scale, rel=1e-7)
    assert config.rotary_dim == (spec.rotary_dim or spec.head_dim)
    assert config.window_rope == (spec.window_frequencies is not None)
    if name not in VARIANTS:  # a reader from before knows these bundles
        assert spec.to_config_bytes()[156:] == bytes(100)


def test_the_embedding_is_scaled_in_the_models_dtype(tmp_path: Path) -> None:
    """transformers keeps sqrt(hidden_size) in the dtype of the weights: 34 for Gemma-3-1B in bfloat16."""
    directory = write_tiny(tmp_path, "gemma3")
    config = json.loads((directory / "config.json").read_text())
    for dtype, scale in (("bfloat16", 34.0), ("float16", 33.9375), ("float32", np.float32(1152**0.5))):
        assert embedding_scale(config | {"dtype": dtype, "hidden_size": 1152}) == scale
        old = {key: value for key, value in config.items() if key != "dtype"} | {"torch_dtype": dtype}
        assert embedding_scale(old | {"hidden_size": 1152}) == scale


def embedding_scale(config: dict[str, Any]) -> float:
    from mobile_bundle.models import gemma3
    from mobile_bundle.models.config import Config

    return gemma3.read(Config(config)).embedding_scale


def test_gemma3_as_it_is_published() -> None:
    """The keys of google/gemma-3-1b-it's config.json, from before transformers 5."""
    from mobile_bundle.models import gemma3
    from mobile_bundle.models.config import Config

    spec = gemma3.read(
        Config(
            {
                "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "vocab_size": 262144,
                "intermediate_size": 6912, "max_position_embeddings": 32768, "num_attention_heads": 4,
                "num_hidden_layers": 26, "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6,
                "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512,
                "sliding_window_pattern": 6, "torch_dtype": "bfloat16",
            }
        )
    )  # fmt: skip
    assert spec.tied
    assert spec.full_layers == {5, 11, 17, 23}
    assert spec.sliding_window == 512
    assert spec.query_scale == 1 / 16
    assert spec.window_frequencies is not None
    assert spec.inverse_frequencies[1] == pytest.approx(1e6 ** (-2 / 256), rel=1e-6)
    assert spec.window_frequencies[1] == pytest.approx(1e4 ** (-2 / 256), rel=1e-6)
    whole = 26 * 8192 * 2 * (256 + 16)
    assert estimate_memory(spec.to_config_bytes(), 8192, 2).kv_bytes <= whole / 4


def test_minicpm_is_a_granite(tmp_path: Path) -> None:
    """transformers has no MiniCPM; with its factors as Granite's, Granite is one."""
    hidden, layers, base = 64, 3, 16
    factors = tiny_model("granite").config.to_dict()
    factors |= {
        "embedding_multiplier": 12.0, "residual_multiplier": 1.4 / layers**0.5, "logits_scaling": hidden / base,
        "attention_multiplier": 16**-0.5,
    }  # fmt: skip
    minicpm = {
        key: value for key, value in factors.items()
        if not key.endswith(("_multiplier", "_scaling", "model_type", "architectures"))
    } | {"model_type": "minicpm", "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": base}  # fmt: skip
    directory = write_tiny(tmp_path, "granite")
    for config in (factors, minicpm):
        (directory / "config.json").write_text(json.dumps(config))
        build_weights(directory, "raw", tmp_path / "weights.ptd")
        with Model(tmp_path / "weights.ptd") as model, model.session() as session:
            logits = session.feed(IDS).copy()
        if config is factors:
            expected = logits
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "soft caps": ("gemma3", {"final_logit_softcapping": 0.0}, "final_logit_softcapping in config.json is 0.0, not a"),
    "biases of convolutions": ("lfm2", {"conv_bias": True}, "conv_bias in config.json is not supported"),
    "one tap": ("lfm2", {"conv_L_cache": 1}, "conv_L_cache 1 in config.json is not supported: 2 to 32 are"),
    "layers of LFM2": ("lfm2", {"layer_types": ["conv"] * 3}, "layer_types in config.json is not a list of 4 names"),
    "experts": ("lfm2", {"layer_types": ["conv"] * 3 + ["moe"]}, 'layer_types in config.json has "moe", which is not'),
    "both directions": ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    "another gate": ("gemma3", {"hidden_activation": "gelu"}, "hidden_activation 'gelu' is not supported"),
    "other layers": ("gemma3", {"layer_types": ["full_attention"] * 5 + ["conv"]}, '"conv", which is not supported'),
    "too few layers": (
        "gemma3", {"layer_types": ["full_attention", "sliding_attention"]}, "has 2 names for 6 layers",
    ),
    "no factor": ("granite", {"residual_multiplier": 0.0}, "residual_multiplier in config.json is 0.0, not a factor"),
    "experts of Granite 4": ("granite4", {"num_local_experts": 8}, "num_local_experts in config.json is 8: a"),
    "experts by default": ("granite4", {"num_local_experts": None}, "num_local_experts in config.json is null"),
    "Mamba": (
        "granite4", {"layer_types": ["mamba", "attention", "mamba"]}, '"mamba": a Granite 4 with Mamba layers (H)',
    ),
    "Mamba by default": ("granite4", {"layer_types": None}, '"mamba": a Granite 4 with Mamba layers (H)'),
    "layers of Granite 4": ("granite4", {"layer_types": ["attention"]}, "layer_types in config.json has 1 names for 3"),
    "no list of Granite 4": ("granite4", {"layer_types": 3}, "layer_types in config.json is not a list of names"),
    "other positions": ("granite4", {"position_embedding_type": "alibi"}, 'position_embedding_type "alibi"'),
    "no list": ("smollm3", {"no_rope_layers": [1, 2, 1, 1]}, "no_rope_layers in config.json is not a list"),
    "short factors": (
        "phi4", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75,
                                     "short_factor": [1.0], "long_factor": [1.0]}},
        "short_factor of the rotary parameters in config.json is not a list of 6 numbers",
    ),
    "a third of a head": (
        "phi4", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.01}},
        "partial_rotary_factor 0.01 is not supported for heads of 16",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_named(tmp_path: Path, case: str) -> None:
    name, changes, message = REFUSED[case]
    directory = write_tiny(tmp_path, name)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=re.escape(message)):
        open_model(directory)


def test_a_context_that_only_long_factors_reach_ends_early(tmp_path: Path) -> None:
    with open_model(write_tiny(tmp_path, "phi4")) as model:
        assert model.spec.context == 128
        assert any("ends at 128 positions, not at 512" in note for note in model.notes)


def test_the_page_shows_what_is() -> None:
    """docs/ADDING_A_MODEL.md: the file that it prints, and fields of DecoderSpec that there are."""
    page = (ROOT / "docs/ADDING_A_MODEL.md").read_text("utf-8")
    shown = page.partition("```python\n")[2].partition("```")[0]
    assert shown in Path(granite.__file__).read_text("utf-8")
    table = page.partition("## What a spec can say")[2].partition("Two things")[0]
    named = re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines() if row.startswith("| `")))
    assert len(named) > 20
    assert set(named) - {field.name for field in fields(DecoderSpec)} == set()
