"""Models that compute values that are not finite: refused by the build with the tensor's name, told at run time."""

from __future__ import annotations

import ctypes
import json
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mobile_bundle.errors import UserError
from mobile_bundle.evaluate.perplexity import measure
from mobile_bundle.models.rope import rotary
from mobile_bundle.native.engine import Model
from mobile_bundle.native.library import library
from mobile_bundle.native.programs import bundle_runner
from mobile_bundle.native.sampler import SamplerOptions
from support.builds import build as build_a
from support.checkpoints import write_byte_tokenizer, write_tiny
from support.damage import overflowing
from support.serve import serving

PROMPT = "The history of the city"


def build(model: Path, out: Path, recipe: str, **more: Any) -> dict[str, Any]:
    return build_a(model, out, recipe, formats=("native",), **more)


LAYER_1 = "model.layers.1"
TOO_LARGE = {
    # what is multiplied by how much, and the tensors of which one must be named
    "embedding": ({"model.embed_tokens.weight": 1e38}, ["model.embed_tokens.weight"]),
    "first norm": ({"model.layers.0.input_layernorm.weight": 3e38}, ["model.layers.0.input_layernorm.weight"]),
    "norm": ({f"{LAYER_1}.input_layernorm.weight": 3e38}, [f"{LAYER_1}.input_layernorm.weight"]),
    "last norm": ({"model.norm.weight": 3e38}, ["model.norm.weight"]),
    "query": ({f"{LAYER_1}.self_attn.q_proj.weight": 4e39}, [f"{LAYER_1}.self_attn.q_proj.weight"]),
    "key": ({f"{LAYER_1}.self_attn.k_proj.weight": 1e9}, [f"{LAYER_1}.self_attn.k_proj.weight"]),
    "value": ({f"{LAYER_1}.self_attn.v_proj.weight": 1e38}, [f"{LAYER_1}.self_attn.v_proj.weight"]),
    "output": ({f"{LAYER_1}.self_attn.o_proj.weight": 3e38}, [f"{LAYER_1}.self_attn.o_proj.weight"]),
    "output's squares": ({f"{LAYER_1}.self_attn.o_proj.weight": 1e25}, [f"{LAYER_1}.self_attn.o_proj.weight"]),
    "gate and up": (
        {f"{LAYER_1}.mlp.gate_proj.weight": 1e22, f"{LAYER_1}.mlp.up_proj.weight": 1e20},
        [f"{LAYER_1}.mlp.gate_proj.weight", f"{LAYER_1}.mlp.up_proj.weight"],
    ),
    "down": ({f"{LAYER_1}.mlp.down_proj.weight": 1e38}, [f"{LAYER_1}.mlp.down_proj.weight"]),
    "head": ({"lm_head.weight": 3e38}, ["lm_head.weight"]),
}


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Mistral with a head of its own."""
    pytest.importorskip("transformers")
    model = write_tiny(tmp_path_factory.mktemp("models") / "m", "mistral")
    write_byte_tokenizer(model)
    return model


def scaled(model: Path, out: Path, factors: dict[str, float]) -> Path:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    assert factors.keys() <= tensors.keys()
    out.mkdir()
    for file in model.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    for name, factor in factors.items():
        product = tensors[name].astype(np.float64) * factor
        tensors[name] = np.clip(product, -3.3e38, 3.3e38).astype(np.float32)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.mark.parametrize("recipe", ["raw", "affine-4bit", "affine-8bit+entropy"])
@pytest.mark.parametrize("what", TOO_LARGE)
def test_a_build_names_the_tensor_that_overflows(untied, tmp_path, what, recipe):
    factors, named = TOO_LARGE[what]
    model = scaled(untied, tmp_path / "model", factors)
    with pytest.raises(UserError, match="the model computes no finite logits") as error:
        build(model, tmp_path / "b.mbundle", recipe)
    assert any(str(error.value).startswith(f"the model computes no finite logits: {name} gives") for name in named)
    # nothing of a bundle; what was coded is kept as after every failure
    assert [path.name for path in tmp_path.iterdir() if "mbundle" in path.name] == ["b.mbundle.parts"]


@pytest.mark.parametrize("recipe", ["raw", "affine-4bit", "affine-8bit+entropy"])
def test_the_check_leaves_nothing_in_a_bundle(untied, tmp_path, recipe):
    manifest = build(untied, tmp_path / "b.mbundle", recipe)
    files = {str(path.relative_to(tmp_path / "b.mbundle")) for path in (tmp_path / "b.mbundle").rglob("*")}
    assert files - {"bin", "bin/x86_64", "bin/arm64-v8a", "bin/armeabi-v7a", "manifest.json"} == set(manifest["files"])
    assert [path.name for path in tmp_path.iterdir()] == ["b.mbundle"]


@pytest.mark.parametrize(
    "config",
    [
        {"rope_theta": 1e-300},
        {"rope_scaling": {"rope_type": "linear", "factor": 1e-300}},
        {"rope_scaling": {"rope_type": "linear", "factor": 1e-37}},  # a table that is finite, angles that are not
        {
            "rope_scaling": {
                "rope_type": "llama3", "factor": 1e308, "low_freq_factor": 1e-308, "high_freq_factor": 1e308,
                "original_max_position_embeddings": 1e308,
            }
        },
    ],
)  # fmt: skip
def test_a_rotary_table_that_is_not_finite_is_refused(config):
    with pytest.raises(UserError, match=r"rotary parameter .* in config\.json"):
        rotary(config, 64, 2048, 10000.0)


@pytest.fixture(scope="module")
def broken(bundle, tmp_path_factory) -> Path:
    """The example, unquantised, with a last norm that overflows."""
    return overflowing(bundle("raw"), tmp_path_factory.mktemp("broken") / "b.mbundle")


@pytest.mark.parametrize("sampling", [(), ("--temperature", "0.8", "--top-p", "0.9"), ("--repetition-penalty", "2")])
@pytest.mark.parametrize("kernels", ["auto", "scalar"])
def test_an_answer_ends_with_an_error_of_its_own_kind(broken, sampling, kernels):
    arguments = ("--prompt", PROMPT, "--max-new-tokens", "6", "--kernels", kernels, *sampling)
    process = subprocess.run(
        [str(bundle_runner(broken)), "generate", str(broken), *arguments, "--json"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    assert process.returncode == 1
    events = [json.loads(line) for line in process.stdout.splitlines()]
    assert [event["event"] for event in events] == ["load", "prompt", "error"]
    assert events[-1]["kind"] == "numeric"
    assert "not finite" in events[-1]["message"]


def test_without_json_it_is_one_line_and_status_1(broken):
    process = subprocess.run(
        [str(bundle_runner(broken)), "generate", str(broken), "--prompt", PROMPT],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    assert (process.returncode, process.stdout) == (1, "")
    assert len(process.stderr.splitlines()) == 1
    assert "not finite" in process.stderr


@pytest.mark.parametrize("recipe", ["raw", "affine-4bit"])
@pytest.mark.parametrize("kv", ["int8", "k8v4", "int4", "f16"])
def test_one_token_that_overflows_ends_one_answer(untied, tmp_path, recipe, kv):
    """The embedding of "~" alone: it becomes an input of every kind of product."""
    build(untied, tmp_path / "b.mbundle", {"raw": "raw", "affine-4bit": "affine-4bit+raw"}[recipe])
    with Model(tmp_path / "b.mbundle") as model, model.session() as session:
        finite = session.feed([5]).copy()
        assert np.isfinite(finite).all()
    tilde = json.loads((untied / "tokenizer.json").read_text())["model"]["vocab"]["~"]
    directory = overflowing(tmp_path / "b.mbundle", tmp_path / "c.mbundle", "embedding.weight", tilde)
    with serving(directory, "--kv", kv) as server:
        fine = server.ask(prompt="abc", max_new_tokens=1)
        assert fine[-1]["event"] == "done"
        failed = server.ask(prompt="ab~c", max_new_tokens=4)[-1]
        assert (failed["event"], failed["kind"]) == ("error", "numeric")
        again = server.ask(prompt="abc", max_new_tokens=1)
        assert [event for event in again if event["event"] == "token"] == [e for e in fine if e["event"] == "token"]
        assert server.end() == 0


def test_the_engine_names_the_tensor(broken, bundle):
    with Model(broken, mapping="layers") as model, model.session(16) as session:
        with pytest.raises(UserError, match=r"^norm\.weight gives values that are not finite, from values of up to"):
            session.check([1, 2, 3])
        assert session.position == 3
    with Model(bundle("raw")) as model, model.session(16) as session:
        session.check([1, 2, 3])
        logits = session.feed([4]).copy()
        session.rewind(0)
        session.feed([1, 2, 3])
        np.testing.assert_array_equal(session.feed([4]), logits)


def test_perplexity_of_what_is_not_finite_is_refused(broken):
    with Model(broken) as model, pytest.raises(UserError, match="not finite"):
        measure(model, np.arange(64, dtype=np.int32).reshape(2, 32))


class Sampler:
    """mb_sampler over `vocabulary` logits."""

    def __init__(self, vocabulary: int, **options: Any) -> None:
        given = SamplerOptions(ctypes.sizeof(SamplerOptions), top_p=1, repetition_penalty=1)
        for name, value in options.items():
            setattr(given, name, value)
        self.handle = ctypes.c_void_p()
        assert library().mb_sampler_open(vocabulary, ctypes.byref(given), ctypes.byref(self.handle)) == 0

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *_: object) -> None:
        library().mb_sampler_close(self.handle)

    def accept(self, token: int) -> None:
        library().mb_sampler_accept(self.handle, token)

    def sample(self, logits: list[float]) -> tuple[int, int]:
        """(status, token)"""
        token = ctypes.c_int32()
        array = (ctypes.c_float * len(logits))(*logits)
        return library().mb_sampler_sample(self.handle, array, ctypes.byref(token)), token.value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 2}])
def test_no_token_is_chosen_from_logits_that_are_not_finite(value, options):
    with Sampler(4, **options) as sampler:
        assert sampler.sample([1, 2, 3, value]) == (6, -1)
        assert sampler.sample([1, 2, 300, 4]) == (0, 2)


def test_a_repeated_token_is_penalised_once_in_a_window_of_any_length():
    with Sampler(300, repetition_penalty=2.0, repetition_window=65536) as sampler:
        for _ in range(70_000):
            sampler.accept(7)
        logits = [0.0] * 300
        logits[7], logits[8] = 10.0, 4.9
        assert sampler.sample(logits) == (0, 7)  # 10 / 2, not less
        logits[8] = 5.1
        assert sampler.sample(logits) == (0, 8)
        sampler.accept(299)
        logits[299] = 10.0
        assert sampler.sample(logits) == (0, 8)
        assert sampler.sample(logits) == (0, 8)  # no mark is left of the sample before
