"""GGUF files: the same model as the checkpoint that they were made of, and codes that are carried over bit for bit."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mobile_bundle.codecs import codec_by_name
from mobile_bundle.codecs.source import ArraySource
from mobile_bundle.container import WeightsReader
from mobile_bundle.errors import UserError
from mobile_bundle.models import Model, open_model
from mobile_bundle.models.gguf import GgufFile
from mobile_bundle.native.engine import Model as Engine
from mobile_bundle.pipeline.weights import build_weights
from mobile_bundle.report.errors import decoded_chunks
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from support.builds import build
from support.checkpoints import write_tiny
from support.gguf_files import Type, wide_checkpoint, write_gguf

MODELS = (
    "llama",
    "llama-untied-biases",
    "llama-linear-rope",
    "mistral-full",
    "qwen2",
    "qwen3",
    "qwen3-biases",
)


FAMILIES = (
    "gemma2", "gemma3", "gemma3-linear", "granite", "granite-untied", "smollm3", "ernie", "ernie-biases", "olmo2",
    "exaone4", "exaone4-hybrid", "hunyuan", "phi3", "phi4", "lfm2",
)  # fmt: skip
"""What architectures of llama.cpp's other than llama and Qwen have beyond them."""


def values_of(model: Model) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every tensor of a model, put together from chunks that are no multiple of anything."""
    for tensor in model.tensors:
        yield tensor.name, np.concatenate(list(model.source(tensor).chunks(37)))


def stored_values(weights: Path) -> dict[str, NDArray[np.float32]]:
    """Every tensor of a weights.ptd, decoded."""
    with WeightsReader(weights) as reader:
        found = {}
        for entry in reader.entries:
            chunks = decoded_chunks(reader, entry.name)
            assert chunks is not None
            found[entry.name] = np.concatenate(list(chunks))
        return found


def same_bits(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> bool:
    return np.array_equal(ours.view(np.uint32), np.ascontiguousarray(theirs).view(np.uint32).reshape(ours.shape))


@pytest.mark.parametrize("name", MODELS)
def test_the_same_model_as_its_checkpoint(tmp_path: Path, name: str) -> None:
    directory = write_tiny(tmp_path / "checkpoint", name)
    write_gguf(tmp_path / "model.gguf", directory)
    with open_model(directory) as theirs, open_model(tmp_path / "model.gguf") as ours:
        for field in dataclasses.fields(theirs.spec):
            one, other = getattr(ours.spec, field.name), getattr(theirs.spec, field.name)
            if field.name in ("name", "architecture"):  # a Mistral is "llama" in a GGUF
                continue
            if field.name == "norm_epsilon":  # float32 in the file, and in a bundle
                one, other = np.float32(one), np.float32(other)
            assert np.array_equal(one, other), field.name
        assert ours.spec.name == "A small model"
        assert ours.parameters == theirs.parameters
        for (one_name, one_values), (other_name, other_values) in zip(values_of(ours), values_of(theirs), strict=True):
            assert one_name == other_name
            assert same_bits(one_values, other_values), one_name


def compare(theirs: Path, ours: Path) -> None:
    """The same decoder and the same values of every tensor, so the same logits."""
    with open_model(theirs) as checkpoint, open_model(ours) as file:
        same = dataclasses.replace(file.spec, name=checkpoint.spec.name)
        assert same.to_config_bytes() == checkpoint.spec.to_config_bytes()
        for field in dataclasses.fields(same):
            one, other = getattr(same, field.name), getattr(checkpoint.spec, field.name)
            if isinstance(one, float):
                one, other = np.float32(one), np.float32(other)
            if field.name == "logit_scale" or field.name.endswith("frequencies"):  # of float32 numbers in the file
                assert (one is None and other is None) or np.allclose(one, other, rtol=1e-6, atol=0)
            elif field.name not in ("norm_plus", "pairs"):  # done to the values in the file already
                assert np.array_equal(one, other), field.name
        for (one_name, one_values), (name, values) in zip(values_of(file), values_of(checkpoint), strict=True):
            assert one_name == name
            if name == "norm.weight" or name.startswith("rope."):
                np.testing.assert_allclose(one_values, values, rtol=1e-6)
            else:
                assert same_bits(one_values, values), name


def bfloat16_checkpoint(directory: Path, name: str) -> Path:
    """Values of bfloat16 in float32, with the dtype of a published model in config.json, and as in all of those that a
    GGUF can hold, query_pre_attn_scalar is head_dim."""
    write_tiny(directory, name, "bfloat16")
    state = _state(directory)
    config = json.loads((directory / "config.json").read_text("utf-8"))
    if "query_pre_attn_scalar" in config:
        config["query_pre_attn_scalar"] = config["head_dim"]
    (directory / "config.json").write_text(json.dumps(config))
    save_file(state, directory / "model.safetensors", {"format": "pt"})
    return directory


@pytest.mark.parametrize("name", FAMILIES)
def test_the_other_families(tmp_path: Path, name: str) -> None:
    directory = bfloat16_checkpoint(tmp_path / "checkpoint", name)
    write_gguf(tmp_path / "model.gguf", directory)
    compare(directory, tmp_path / "model.gguf")
    logits = []
    for path in (directory, tmp_path / "model.gguf"):
        build_weights(path, "raw", tmp_path / "weights.ptd")
        with Engine(tmp_path / "weights.ptd") as model, model.session() as session:
            logits.append(session.feed(np.arange(3, 60, dtype=np.int32)).copy())
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-5, atol=1e-5)


def test_granite4(tmp_path: Path) -> None:
    """The converter splits gate and up and calls it granite; keys of the Mamba layers that it does not have stay."""
    directory = bfloat16_checkpoint(tmp_path / "checkpoint", "granite4")
    config = json.loads((directory / "config.json").read_text("utf-8"))
    state, split = load_file(directory / "model.safetensors"), tmp_path / "split"
    split.mkdir()
    (split / "config.json").write_text(json.dumps(config | {"model_type": "granite", "intermediate_size": 140}))
    tensors = {}
    for name, value in state.items():
        if name.endswith("input_linear.weight"):
            gate = name.replace("shared_mlp.input_linear", "mlp.gate_proj")
            tensors[gate], tensors[gate.replace("gate", "up")] = value[:140].copy(), value[140:].copy()
        else:
            tensors[name.replace("shared_mlp.output_linear", "mlp.down_proj")] = value
    save_file(tensors, split / "model.safetensors", {"format": "pt"})

    def edit(writer: Any, rotated: bool = True) -> None:
        writer.add_head_count_kv([2, 2, 2])
        writer.add_ssm_state_size(256)
        writer.add_expert_shared_feed_forward_length(140)
        writer.add_rope_scaling_finetuned(rotated)

    write_gguf(tmp_path / "model.gguf", split, edit=edit)
    logits = []
    for path in (directory, tmp_path / "model.gguf"):
        build_weights(path, "raw", tmp_path / "weights.ptd")
        with Engine(tmp_path / "weights.ptd") as model, model.session() as session:
            logits.append(session.feed(np.arange(3, 60, dtype=np.int32)).copy())
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-5, atol=1e-5)
    write_gguf(tmp_path / "model.gguf", split, edit=lambda writer: edit(writer, False))
    with pytest.raises(UserError, match="a Granite without positions"):
        open_model(tmp_path / "model.gguf")


def test_minicpm(tmp_path: Path) -> None:
    """transformers has no class of it: a Llama's tensors with its factors."""
    directory = bfloat16_checkpoint(tmp_path / "checkpoint", "llama")
    config = json.loads((directory / "config.json").read_text("utf-8"))
    factors = {"model_type": "minicpm", "architectures": ["MiniCPMForCausalLM"], "scale_emb": 12, "scale_depth": 1.4,
               "dim_model_base": 16}  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config | factors))
    write_gguf(tmp_path / "model.gguf", directory)
    compare(directory, tmp_path / "model.gguf")


def test_codes_of_fused_matrices_are_kept(tmp_path: Path) -> None:
    """Phi-3's query, key and value lie in one matrix of the file, gate and up in another."""
    directory = wide_checkpoint(tmp_path / "checkpoint", "Phi3", pad_token_id=0)
    values = write_gguf(tmp_path / "model.gguf", directory, lambda name: Type.Q4_0)
    build_weights(tmp_path / "model.gguf", "keep", tmp_path / "weights.ptd")
    found = stored_values(tmp_path / "weights.ptd")
    fused = values["model.layers.0.self_attn.qkv_proj.weight"]
    assert same_bits(found["layers.0.attention.key.weight"], fused[256:384])
    assert same_bits(found["layers.0.mlp.up.weight"], values["model.layers.0.mlp.gate_up_proj.weight"][512:])


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("lfm2", "lfm2.shortconv.l_cache", 0, "lfm2.shortconv.l_cache is 0"),
        ("granite", "granite.attention.sliding_window", 24, "a sliding window is not supported in a GGUF"),
        ("gemma3", "gemma3.attention.scale", 0.5, "gemma3.attention.scale is 0.5, which is not supported"),
    ],
)
def test_other_keys_of_the_families(tmp_path: Path, name: str, key: str, value: Any, message: str) -> None:
    directory = bfloat16_checkpoint(tmp_path / "checkpoint", name)

    def edit(writer: Any) -> None:
        if key in writer.kv_data[0]:
            del writer.kv_data[0][key]
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)

    write_gguf(tmp_path / "model.gguf", directory, edit=edit)
    with pytest.raises(UserError, match=re.escape(message)):
        open_model(tmp_path / "model.gguf")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(tmp_path: Path, dtype: str) -> None:
    directory = write_tiny(tmp_path / "checkpoint", "llama", dtype)
    (tmp_path / "wide").mkdir()
    state = {name: value.astype(np.float32) for name, value in _state(directory).items()}
    save_file(state, tmp_path / "wide/model.safetensors", {"format": "pt"})
    (tmp_path / "wide/config.json").write_bytes((directory / "config.json").read_bytes())
    type_ = Type.F16 if dtype == "float16" else Type.BF16
    write_gguf(tmp_path / "model.gguf", tmp_path / "wide", lambda name: type_)
    with open_model(directory) as theirs, open_model(tmp_path / "model.gguf") as ours:
        for (_, one), (name, other) in zip(values_of(ours), values_of(theirs), strict=True):
            assert same_bits(one, other), name
    records = build_weights(tmp_path / "model.gguf", None, tmp_path / "default.ptd")
    checkpoint = build_weights(directory, None, tmp_path / "checkpoint.ptd")
    assert [record.codec for record in records] == [record.codec for record in checkpoint]  # no codes to carry over
    kept = build_weights(tmp_path / "model.gguf", "keep", tmp_path / "keep.ptd")
    codecs = {record.codec for record in kept if record.codec != "f32"}
    assert codecs == ({"raw"} if dtype == "bfloat16" else {"affine-8bit"})
    if dtype == "bfloat16":
        assert all(record.relative_error == 0 for record in kept)


def _state(directory: Path) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file as load_torch

    return {
        name: value.to(torch.float32).numpy() for name, value in load_torch(directory / "model.safetensors").items()
    }


KEPT = {
    "Q4_0": "kept-affine-4bit-g32-sym",
    "Q4_1": "kept-affine-4bit-g32-asym",
    "Q5_0": "kept-affine-5bit-g32-sym",
    "Q5_1": "kept-affine-5bit-g32-asym",
    "Q8_0": "kept-affine-8bit-g32-sym",
    "IQ4_NL": "kept-affine-8bit-g32-sym",
    "Q1_0": "kept-sign-1bit",
    "TQ1_0": "kept-affine-2bit-g128-sym",
    "TQ2_0": "kept-affine-2bit-g128-sym",
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Checkpoints of each family with columns of whole blocks."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = wide_checkpoint(tmp_path_factory.mktemp(family), family)
        return made[family]

    return make


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("type_", KEPT)
def test_codes_are_carried_over(tmp_path: Path, wide: Callable[[str], Path], type_: str, family: str) -> None:
    truth = write_gguf(tmp_path / "model.gguf", wide(family), lambda name: Type[type_])
    records = build_weights(tmp_path / "model.gguf", None, tmp_path / "w.ptd")  # keep is the default
    assert {record.codec for record in records} == {"f32", KEPT[type_]}
    assert all(record.relative_error == 0 for record in records)
    found = stored_values(tmp_path / "w.ptd")
    with open_model(tmp_path / "model.gguf") as model:
        for tensor in model.tensors:
            if tensor.source:
                assert same_bits(found[tensor.name], truth[tensor.source]), tensor.name


def test_a_file_of_several_types(tmp_path: Path, wide: Callable[[str], Path]) -> None:
    types = {"embed_tokens": Type.F16, "v_proj": Type.Q6_K, "down_proj": Type.Q4_K, "o_proj": Type.BF16}

    def type_of(name: str) -> Type:
        return next((found for part, found in types.items() if part in name), Type.Q4_0)

    truth = write_gguf(tmp_path / "model.gguf", wide("Llama"), type_of)
    manifest = build(tmp_path / "model.gguf", tmp_path / "m.mbundle", formats=("native",))
    told = manifest["notes"]
    assert manifest["recipe"].startswith("keep, affine-")
    rest = manifest["recipe"].removeprefix("keep, ").partition("+")[0]
    assert manifest["licence"] == "apache-2.0"
    assert "8 matrices of type Q4_0: carried over exactly, as affine-4bit-g32-sym" in told
    assert any(line.startswith(f"2 matrices of type Q6_K: dequantised and coded as {rest}") for line in told)
    assert any(line.startswith(f"2 matrices of type Q4_K: dequantised and coded as {rest}") for line in told)
    assert "2 matrices of type BF16: coded as raw" in told
    assert "1 matrix of type F16: coded as affine-8bit" in told
    found = stored_values(tmp_path / "m.mbundle/weights.ptd")
    with open_model(tmp_path / "model.gguf") as model:
        for name, values in values_of(model):
            tensor = next(tensor for tensor in model.tensors if tensor.name == name)
            if tensor.source:
                assert same_bits(values, truth[tensor.source]), name  # whatever the recipe, this is what it starts from
            if tensor.stored in ("Q4_0", "BF16"):
                assert same_bits(found[name], values), name


def test_other_recipes(tmp_path: Path, wide: Callable[[str], Path]) -> None:
    truth = write_gguf(tmp_path / "model.gguf", wide("Llama"), lambda name: Type.Q8_0)
    records = build_weights(tmp_path / "model.gguf", "keep+affine-4bit", tmp_path / "w.ptd")
    assert {record.codec for record in records if record.name == "embedding.weight"} == {"affine-4bit"}
    assert {record.codec for record in records if ".mlp." in record.name} == {"f32", KEPT["Q8_0"]}
    records = build_weights(tmp_path / "model.gguf", "keep+entropy", tmp_path / "w.ptd")
    assert all(record.relative_error == 0 for record in records)
    found = stored_values(tmp_path / "w.ptd")
    assert same_bits(found["layers.1.attention.key.weight"], truth["model.layers.1.self_attn.k_proj.weight"])
    build_weights(tmp_path / "model.gguf", "raw", tmp_path / "w.ptd")
    with pytest.raises(UserError, match="keep needs a GGUF file, whose codes it keeps; this model is not one"):
        build_weights(wide("Llama"), "keep", tmp_path / "w.ptd")


def test_the_bytes_do_not_depend_on_the_workers(tmp_path: Path, wide: Callable[[str], Path]) -> None:
    write_gguf(tmp_path / "model.gguf", wide("Llama"), lambda name: Type.Q4_1)
    build_weights(tmp_path / "model.gguf", None, tmp_path / "one.ptd", jobs=1)
    build_weights(tmp_path / "model.gguf", None, tmp_path / "two.ptd", jobs=2)
    assert (tmp_path / "one.ptd").read_bytes() == (tmp_path / "two.ptd").read_bytes()


def test_scales_at_the_ends_of_fp16(tmp_path: Path, wide: Callable[[str], Path]) -> None:
    """Subnormal, largest and negative scales are carried over as they are."""
    scales = np.array([6e-8, 5.96e-8, 3e-5, 6.1e-5, 4000.0, -0.01, 0.0, -0.0], "<f2")
    path = tmp_path / "model.gguf"
    write_gguf(path, wide("Llama"), lambda name: Type.Q4_1)
    with GgufFile(path) as file:
        tensors = [tensor for tensor in file.tensors.values() if tensor.type == "Q4_1"]
    data = bytearray(path.read_bytes())
    for tensor in tensors:
        blocks = np.frombuffer(data, np.uint8, tensor.bytes, tensor.offset).reshape(-1, 20)
        count = len(blocks)
        blocks[:, 0:2] = np.resize(scales, count).view(np.uint8).reshape(-1, 2)
        blocks[:, 2:4] = np.resize(scales[::-1], count + 3)[3:].view(np.uint8).reshape(-1, 2)
    path.write_bytes(data)
    records = build_weights(path, None, tmp_path / "w.ptd")
    found = stored_values(tmp_path / "w.ptd")
    assert {record.codec for record in records} == {"f32", KEPT["Q4_1"]}
    with open_model(path) as model:
        for name, values in values_of(model):
            assert same_bits(found[name], values), name
            assert name.endswith(("norm.weight", "frequencies")) or np.abs(values).max() > 1e4


@pytest.mark.parametrize(
    ("type_", "block", "words"),
    [
        (Type.Q8_0, bytes([0, 0x20]) + bytes([0x80] * 32), r"it has a code outside -127\.\.127"),
        (Type.TQ2_0, bytes([255] * 64) + bytes([0, 0x20]), "it holds a code that is not ternary"),
        (Type.Q4_0, bytes([0, 0x7C]) + bytes([0] * 16), "holds NaN or infinite values"),
    ],
)
def test_codes_that_cannot_be_carried_over(
    tmp_path: Path, wide: Callable[[str], Path], type_: Type, block: bytes, words: str
) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, wide("Llama"), lambda name: type_)
    with GgufFile(path) as file:
        offset = file.tensors["blk.1.ffn_up.weight"].offset
    data = bytearray(path.read_bytes())
    data[offset : offset + len(block)] = block
    path.write_bytes(data)
    with pytest.raises(UserError, match=words):
        build_weights(path, None, tmp_path / "w.ptd")
    assert not (tmp_path / "w.ptd").exists()


def test_only_a_source_with_codes_is_carried_over() -> None:
    source = ArraySource(np.ones((16, 32), np.float32))
    with pytest.raises(ValueError, match="this matrix has none"):
        codec_by_name("kept-affine-4bit-g32-sym").encode_stream(source, lambda data: None)


def test_rotary_factors_of_llama3(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    options = {"head_dim": 64, "max_position_embeddings": 131072}
    directory = wide_checkpoint(tmp_path / "checkpoint", rope_parameters=rope, **options)
    write_gguf(tmp_path / "model.gguf", directory)
    with open_model(directory) as theirs, open_model(tmp_path / "model.gguf") as ours:
        assert len(set(np.diff(np.log(theirs.spec.inverse_frequencies)).round(4))) > 2  # it is stretched
        assert same_bits(ours.spec.inverse_frequencies, theirs.spec.inverse_frequencies)
    other = wide_checkpoint(tmp_path / "other", rope_parameters={**rope, "high_freq_factor": 3.0}, **options)
    write_gguf(tmp_path / "other.gguf", other)
    with pytest.raises(UserError, match=r"rope_freqs.weight\) are not scaled as those of Llama 3"):
        open_model(tmp_path / "other.gguf")


def test_generation_settings(tmp_path: Path, wide: Callable[[str], Path]) -> None:
    def edit(writer: Any) -> None:
        writer.add_eot_token_id(5)
        writer.add_float32("general.sampling.temp", 0.5)
        writer.add_int32("general.sampling.top_k", 20)
        writer.add_float32("general.sampling.top_p", 0.75)
        writer.add_float32("general.sampling.penalty_repeat", 1.25)
        writer.add_chat_template("{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}[assistant]")

    write_gguf(tmp_path / "model.gguf", wide("Llama"), lambda name: Type.Q4_0, edit=edit)
    manifest = build(tmp_path / "model.gguf", tmp_path / "m.mbundle")
    assert manifest["generation"] == {
        "do_sample": True,
        "temperature": 0.5,
        "top_k": 20,
        "top_p": 0.75,
        "repetition_penalty": 1.25,
    }
    assert manifest["model"]["eos"] == [2, 5]
    assert manifest["model"]["bos"] == 1
    assert manifest["model"]["name"] == "A small model"
    assert manifest["chat_template"] is True
    json.dumps(manifest)


def test_what_the_models_compute(tmp_path: Path, wide: Callable[[str], Path]) -> None:
    """Rows in order: the logits of a raw build are transformers'."""
    import torch
    import transformers
    from mobile_bundle.native.engine import Model as NativeModel

    state = load_file(wide("Llama") / "model.safetensors")
    write_gguf(tmp_path / "model.gguf", wide("Llama"))
    build_weights(tmp_path / "model.gguf", "raw", tmp_path / "w.ptd")
    model = transformers.AutoModelForCausalLM.from_pretrained(wide("Llama")).float().eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name in state and value.ndim == 2:
                value.copy_(value.to(torch.bfloat16).float())
        expected = model(torch.tensor([list(range(3, 40))])).logits[0, -1].numpy()
    with NativeModel(tmp_path / "w.ptd") as ours, ours.session(kv_type="f16") as session:
        found = session.feed(list(range(3, 40)))
        assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
