"""Conditions of real checkpoints: what transformers accepts is read with its result, or refused in one clear line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mobile_bundle.errors import UserError
from mobile_bundle.models import open_model
from numpy.typing import NDArray
from support.checkpoints import write_tiny

pytest.importorskip("transformers")
from safetensors.numpy import load_file, save_file
from support.logits import our_logits, transformers_logits

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Condition:
    """A small checkpoint with something changed. config: keys to set; drop: keys to remove; tensors: changes them."""

    family: str = "llama"
    config: dict[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    tensors: Callable[[Tensors], object] = lambda tensors: None


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Condition, Path], Path]:
    """Writes the checkpoint of a condition."""
    made: dict[str, Path] = {}

    def make(condition: Condition, directory: Path) -> Path:
        if condition.family not in made:
            made[condition.family] = write_tiny(tmp_path_factory.mktemp("base") / condition.family, condition.family)
        shutil.copytree(made[condition.family], directory)
        config = json.loads((directory / "config.json").read_text("utf-8"))
        config = {key: value for key, value in config.items() if key not in condition.drop} | condition.config
        (directory / "config.json").write_text(json.dumps(config), "utf-8")
        tensors = dict(load_file(directory / "model.safetensors"))
        condition.tensors(tensors)
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
        return directory

    return make


def own_head(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = np.random.default_rng(3).standard_normal((512, 64)).astype(np.float32) / 8


def same_head(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()


def same_head_in_f16(tensors: Tensors) -> None:
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].astype(np.float16)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].astype(np.float32)


def head_alone(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")


def renamed(old: str, new: str) -> Callable[[Tensors], None]:
    """Every name that begins with `old` begins with `new` instead."""

    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith(old)]:
            tensors[new + name.removeprefix(old)] = tensors.pop(name)

    return change


def all_key_heads(tensors: Tensors) -> None:
    """As many key and value heads as query heads."""
    for name in tensors:
        if "k_proj" in name or "v_proj" in name:
            tensors[name] = np.concatenate([tensors[name]] * 2)


def cast(dtype: Any, part: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({n: v.astype(dtype) for n, v in tensors.items() if part in n})


def with_tensor(name: str, value: NDArray[Any]) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: value})


def unprefixed_with_own_head(tensors: Tensors) -> None:
    own_head(tensors)
    renamed("model.", "")(tensors)


LINEAR = {"rope_type": "linear", "factor": 2.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def rope(**config: Any) -> Condition:
    return Condition(config=config, drop=("rope_parameters",))


SAME: dict[str, Condition] = {
    "tied, a head of its own": Condition(tensors=own_head),
    "tied, a head of its own, Qwen2": Condition("qwen2", tensors=own_head),
    "tied, a head of its own, Qwen3": Condition("qwen3-biases", tensors=own_head),
    "tied, a head of its own, Mistral": Condition("mistral-full", tensors=own_head),
    "tied, the same head": Condition(tensors=same_head),
    "tied, the same head in another dtype": Condition(tensors=same_head_in_f16),
    "tied, the head alone": Condition(tensors=head_alone),
    "not said to be tied": Condition(drop=("tie_word_embeddings",), tensors=own_head),
    "no prefix": Condition(tensors=renamed("model.", "")),
    "no prefix, a head of its own": Condition(tensors=unprefixed_with_own_head),
    "some names with a prefix": Condition(tensors=renamed("model.embed", "embed")),
    "key heads null": Condition(config={"num_key_value_heads": None}, tensors=all_key_heads),
    "key heads null, Qwen2": Condition("qwen2", {"num_key_value_heads": None}, tensors=all_key_heads),
    "key heads missing": Condition(drop=("num_key_value_heads",), tensors=all_key_heads),
    "head_dim null": Condition(config={"head_dim": None}),
    "head_dim missing": Condition(drop=("head_dim",)),
    "swish": Condition(config={"hidden_act": "swish"}),
    "epsilon missing": Condition(drop=("rms_norm_eps",)),
    "epsilon 0": Condition(config={"rms_norm_eps": 0.0}),
    "fewer layers than there are": Condition(config={"num_hidden_layers": 2}),
    "another family's architecture": Condition(config={"architectures": ["MistralForCausalLM"]}),
    "another family's model_type": Condition(config={"model_type": "mistral", "sliding_window": 8}),
    "no architectures": Condition(drop=("architectures",)),
    "architectures empty": Condition(config={"architectures": []}),
    "saved as the model without its head": Condition(config={"architectures": ["LlamaModel"]}),
    "torch_dtype": Condition(config={"torch_dtype": "float16"}, drop=("dtype",)),
    "no dtype": Condition(drop=("dtype",)),
    "all layers full": Condition("mistral", {"layer_types": ["full_attention"] * 3}),
    "mixed windows, by number": Condition("qwen2-sliding", {"max_window_layers": 1}, ("layer_types",)),
    "mixed windows of Qwen2": Condition(
        "qwen2-sliding", {"layer_types": ["sliding_attention", "full_attention", "full_attention"]}
    ),
    "all layers slide": Condition("mistral", {"layer_types": ["sliding_attention"] * 3}),
    "no window": Condition("mistral", {"sliding_window": None}),
    "window missing": Condition("mistral", drop=("sliding_window",)),
    "Qwen2's window, types missing": Condition("qwen2-sliding", drop=("layer_types",)),
    "Qwen2's window null": Condition("qwen2-sliding", {"sliding_window": None, "layer_types": None}),
    "a bias flag that the family does not have": Condition("qwen2", {"attention_bias": False}),
    "biases without the flag": Condition("llama-untied-biases", {"attention_bias": False}),
    "float64": Condition(tensors=cast(np.float64, "")),
    "one vector in float64": Condition(tensors=cast(np.float64, "model.norm")),
    "projections in float16": Condition(tensors=cast(np.float16, "proj")),
    "a classifier's head too": Condition(tensors=with_tensor("score.weight", np.ones((2, 64), np.float32))),
    "rotary tables": Condition(
        tensors=with_tensor("model.layers.0.self_attn.rotary_emb.inv_freq", np.ones(8, np.float32))
    ),
    "tensors without values": Condition(tensors=with_tensor("extra", np.ones((0, 5), np.float32))),
    "a mask of booleans": Condition(tensors=with_tensor("model.layers.0.self_attn.bias", np.ones((4, 4), np.bool_))),
    "rope_theta": rope(rope_theta=5000.0),
    "rope_theta, a whole number": rope(rope_theta=5000),
    "rope_parameters": rope(rope_parameters={"rope_type": "default", "rope_theta": 5000.0}, rope_theta=7000.0),
    "rope_parameters, theta alone": rope(rope_parameters={"rope_theta": 5000.0}),
    "rope_parameters null": rope(rope_parameters=None, rope_theta=5000.0),
    "rope_parameters empty": rope(rope_parameters={}, rope_theta=5000.0),
    "rope_scaling null": rope(rope_scaling=None, rope_theta=5000.0),
    "rope_scaling before rope_parameters": rope(rope_scaling=LINEAR, rope_parameters={"rope_theta": 9000.0}),
    "rope_scaling, the old name": rope(rope_scaling={"type": "linear", "factor": 2.0}, rope_theta=5000.0),
    "rope_scaling, both names": rope(rope_scaling={**LINEAR, "type": "dynamic"}),
    "rope_scaling without a type": rope(rope_scaling={"factor": 2.0}),
    "llama3, original length missing": rope(rope_scaling=LLAMA3),
    "llama3, original length outside": rope(rope_scaling=LLAMA3, original_max_position_embeddings=32),
    "llama3, original length inside and outside": rope(
        rope_scaling={**LLAMA3, "original_max_position_embeddings": 64}, original_max_position_embeddings=32
    ),
    "partial_rotary_factor 1": rope(partial_rotary_factor=1.0),
}


@pytest.mark.parametrize("name", SAME)
def test_the_logits_are_transformers(write: Callable[[Condition, Path], Path], tmp_path: Path, name: str) -> None:
    directory = write(SAME[name], tmp_path / "m")
    np.testing.assert_allclose(our_logits(directory), transformers_logits(directory), rtol=1e-3, atol=2e-4)


NOTES: dict[str, tuple[Condition, list[str]]] = {
    "nothing": (Condition(), []),
    "the same head": (Condition(tensors=same_head), []),
    "rotary tables": (SAME["rotary tables"], []),
    "another head": (
        Condition(tensors=own_head),
        [
            "config.json ties the output head to the embedding, but lm_head.weight holds other values: it is used, as "
            "by transformers 5"
        ],
    ),
    "the head alone": (
        Condition(tensors=head_alone),
        ["there is no model.embed_tokens.weight: lm_head.weight is the embedding too, as config.json ties them"],
    ),
    "another family": (
        SAME["another family's architecture"],
        [
            "config.json names MistralForCausalLM and the model_type of LlamaForCausalLM, which is used, as by "
            "transformers"
        ],
    ),
    "unused tensors": (
        SAME["fewer layers than there are"],
        [
            "9 tensors of the checkpoint are not part of LlamaForCausalLM and not used: "
            "model.layers.2.input_layernorm.weight, model.layers.2.mlp.down_proj.weight, "
            "model.layers.2.mlp.gate_proj.weight ..."
        ],
    ),
}


@pytest.mark.parametrize("name", NOTES)
def test_what_was_chosen_is_noted(write: Callable[[Condition, Path], Path], tmp_path: Path, name: str) -> None:
    condition, notes = NOTES[name]
    with open_model(write(condition, tmp_path / "m")) as model:
        assert model.notes == notes
        assert model.spec.tied == (name != "another head")
        assert any(tensor.role == "output" for tensor in model.tensors) != model.spec.tied


REFUSED: dict[str, tuple[Condition, str]] = {
    "no head": (Condition(config={"tie_word_embeddings": False}), "no tensor lm_head.weight; .*tie_word_embeddings"),
    "a head of more rows": (
        Condition(tensors=with_tensor("lm_head.weight", np.ones((520, 64), np.float32))),
        r"lm_head.weight has the shape \[520, 64\], config.json asks for \[512, 64\]",
    ),
    "names of a wrapper": (Condition(tensors=renamed("", "module.")), "its tensors are module.model.embed_tokens"),
    "a missing norm": (Condition(tensors=lambda tensors: tensors.pop("model.norm.weight")), "no tensor model.norm"),
    "a missing bias": (Condition(config={"attention_bias": True}), "no tensor model.layers.0.self_attn.q_proj.bias"),
    "whole numbers": (Condition(tensors=cast(np.int8, "proj")), r"already quantised \(I8 weights\)"),
    "a string for a number": (Condition(config={"num_hidden_layers": "3"}), 'num_hidden_layers .* is "3", not a whole'),
    "a fraction of layers": (Condition(config={"num_hidden_layers": 3.0}), "num_hidden_layers .* is 3.0, not a whole"),
    "null for a number": (Condition(config={"hidden_size": None}), r"has no hidden_size \(it is null\)"),
    "a string for epsilon": (Condition(config={"rms_norm_eps": "1e-5"}), 'rms_norm_eps in config.json is "1e-5"'),
    "null for epsilon": (Condition(config={"rms_norm_eps": None}), "rms_norm_eps in config.json is null"),
    "a string for true": (Condition(config={"tie_word_embeddings": "true"}), 'is "true", not true or false'),
    "more layers than there are": (
        Condition(config={"num_hidden_layers": 4}),
        "asks for 4 layers .* hold 3: .*layers.3",
    ),
    "a classifier": (
        Condition(config={"architectures": ["LlamaForSequenceClassification"]}),
        r"LlamaForSequenceClassification \(it classifies and writes no text\)",
    ),
    "images too": (
        Condition(
            config={"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "text_config": {}}
        ),
        "LlavaForConditionalGeneration .a model of text and images or sound",
    ),
    "a family that is not known": (Condition(config={"model_type": "mamba"}), "architecture mamba; supp"),
    "mixed windows, listed": (
        Condition("mistral", {"layer_types": ["sliding_attention", "full_attention", "full_attention"]}),
        r"mixes full and sliding attention \(layer_types\)",
    ),
    "max_window_layers null": (
        Condition("qwen2-sliding", {"max_window_layers": None, "layer_types": None}),
        "max_window_layers in config.json is null",
    ),
    "theta a string": (rope(rope_theta="5e3"), "rope_theta"),
    "no factor": (rope(rope_scaling={"rope_type": "linear"}), "config.json has no rotary parameter factor"),
    "half the head": (rope(partial_rotary_factor=0.5), "partial_rotary_factor 0.5"),
    "layers that differ": (Condition(config={"per_layer_config": {"0": {"head_dim": 32}}}), "per_layer_config"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_said(write: Callable[[Condition, Path], Path], tmp_path: Path, name: str) -> None:
    condition, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as error:
        open_model(write(condition, tmp_path / "m"))
    assert "\n" not in str(error.value)
    assert "None" not in str(error.value)


HUGE = 1 << 28


@pytest.mark.parametrize("family", ["llama", "qwen2-sliding"])
@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size", "vocab_size"]
)
def test_sizes_are_compared_before_they_are_used(
    write: Callable[[Condition, Path], Path], tmp_path: Path, family: str, key: str
) -> None:
    import tracemalloc

    directory = write(Condition(family, {key: HUGE, "layer_types": None}), tmp_path / "m")
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=str(HUGE)):
            open_model(directory)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
