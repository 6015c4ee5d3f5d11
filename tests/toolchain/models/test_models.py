"""Checkpoints: every architecture as transformers writes it, and one-line errors for what cannot be read."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mobile_bundle.errors import UserError
from mobile_bundle.models import Checkpoint, Model, open_model
from mobile_bundle.models.rope import rotary
from mobile_bundle.models.spec import DecoderSpec
from numpy.typing import NDArray
from support.checkpoints import TINY, pack_bitnet, tiny_model, write_synthetic, write_tiny

pytest.importorskip("transformers")
import torch
import transformers


def whole(model: Model, name: str, rows: int = 48) -> NDArray[np.float32]:
    """A tensor of ours, put together from chunks."""
    tensor = next(tensor for tensor in model.tensors if tensor.name == name)
    return np.concatenate(list(model.source(tensor).chunks(rows)))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes each small checkpoint once."""
    made: dict[tuple[str, str], Path] = {}

    def make(name: str, dtype: str = "float32") -> Path:
        if (name, dtype) not in made:
            made[name, dtype] = write_tiny(tmp_path_factory.mktemp(name), name, dtype)
        return made[name, dtype]

    return make


@pytest.mark.parametrize("name", TINY)
def test_every_tensor_is_found(tiny: Callable[..., Path], name: str) -> None:
    state = {key: value.numpy() for key, value in tiny_model(name).state_dict().items()}
    with open_model(tiny(name)) as model:
        used = set()
        for tensor in model.tensors:
            if not tensor.source:
                continue
            used.add(tensor.source)
            expected = state[tensor.source].reshape(tensor.rows, tensor.columns)
            found = whole(model, tensor.name)
            if model.spec.ternary and tensor.role == "body":
                assert len(np.unique(found)) <= 3
                np.testing.assert_array_equal(np.sign(found) * (np.sign(expected) != np.sign(found)), 0)
            else:
                np.testing.assert_array_equal(found, expected)
        left = set(state) - used
        assert left == ({"lm_head.weight"} if model.spec.tied else set())
        assert [note for note in model.notes if "rounded to ternary" not in note] == []
        assert bool(model.notes) == model.spec.ternary
        assert model.parameters == sum(p.numel() for p in tiny_model(name).parameters())


@pytest.mark.parametrize("name", TINY)
def test_the_spec_is_transformers_config(tiny: Callable[..., Path], name: str) -> None:
    reference = tiny_model(name)
    config = reference.config
    with open_model(tiny(name)) as model:
        spec = model.spec
    assert spec.architecture == f"{TINY[name][0]}ForCausalLM"
    assert (spec.vocabulary, spec.hidden, spec.layers) == (512, 64, 3)
    assert (spec.heads, spec.kv_heads, spec.feed_forward) == (4, 2, 172)
    assert spec.head_dim == (getattr(config, "head_dim", None) or 16)
    assert spec.context == spec.default_context == 512
    assert spec.tied == config.tie_word_embeddings
    assert spec.norm_epsilon == config.rms_norm_eps
    assert spec.activation == config.hidden_act
    assert spec.sliding_window == (24 if name in ("mistral", "qwen2-sliding") else 0)
    assert spec.qkv_bias == ("model.layers.0.self_attn.q_proj.bias" in reference.state_dict())
    assert spec.output_bias == ("model.layers.0.self_attn.o_proj.bias" in reference.state_dict())
    assert spec.mlp_bias == ("model.layers.0.mlp.up_proj.bias" in reference.state_dict())
    assert spec.qk_norm == (TINY[name][0] == "Qwen3")
    assert spec.sub_norms == spec.ternary == (TINY[name][0] == "BitNet")
    assert (spec.bos, spec.eos) == (1, (2,))
    np.testing.assert_allclose(spec.inverse_frequencies, reference.model.rotary_emb.inv_freq.numpy(), rtol=5e-7)


def test_config_bytes() -> None:
    spec = DecoderSpec(
        "LlamaForCausalLM", "n\u00e4me" * 20, 1, 2, 3, 8, 4, 6, 7, 5000, 9, "relu2", 1e-5, True, np.ones(3, np.float32),
        ternary=True,
    ).with_tokens(-1, (5, 6))  # fmt: skip
    data = spec.to_config_bytes()
    assert len(data) == 256
    assert struct.unpack_from("<11I", data) == (1, 1, 2, 3, 8, 4, 6, 7, 5000, 9, 2)
    assert struct.unpack_from("<fiI8iI", data, 44) == (np.float32(1e-5), -1, 2, 5, 6, 0, 0, 0, 0, 0, 0, 2048)
    name = data[92:156]
    assert name[-1] == 0
    assert ("n\u00e4me" * 20).startswith(name.rstrip(b"\0").decode("utf-8"))
    assert data[156:] == bytes(100)


def test_float64_is_rounded_once(tmp_path: Path) -> None:
    write_tiny(tmp_path, "llama")
    expected = np.random.default_rng(0).standard_normal(64)
    _cast("model.norm.weight", "float64")(tmp_path)
    _replace("model.norm.weight", expected)(tmp_path)
    with open_model(tmp_path) as model:
        np.testing.assert_array_equal(whole(model, "norm.weight")[0], expected.astype(np.float32))
    expected[7] = 1e39  # finite, but not as float32
    _replace("model.norm.weight", expected)(tmp_path)
    with open_model(tmp_path) as model, pytest.raises(UserError, match="NaN or infinite"):
        whole(model, "norm.weight")


def test_dtypes_may_be_mixed(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write_tiny(tmp_path, "llama")
    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {name: value.to(dtypes[at % 3]) for at, (name, value) in enumerate(tensors.items())}
    save_file(tensors, tmp_path / "model.safetensors")
    with open_model(tmp_path) as model:
        for tensor in model.tensors:
            if tensor.source:
                expected = tensors[tensor.source].float().numpy().reshape(tensor.rows, -1)
                np.testing.assert_array_equal(whole(model, tensor.name), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_exactly(tiny: Callable[..., Path], dtype: str) -> None:
    with open_model(tiny("llama", dtype)) as model:
        expected = tiny_model("llama").to(getattr(torch, dtype)).float().state_dict()
        for tensor in model.tensors:
            if tensor.source:
                np.testing.assert_array_equal(
                    whole(model, tensor.name), expected[tensor.source].numpy().reshape(tensor.rows, -1)
                )


def test_shards(tmp_path: Path) -> None:
    write_tiny(tmp_path, "qwen2", shard="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    with open_model(tmp_path) as model:
        expected = tiny_model("qwen2").state_dict()
        for tensor in model.tensors:
            if tensor.source:
                np.testing.assert_array_equal(
                    whole(model, tensor.name).ravel(), expected[tensor.source].numpy().ravel()
                )


@pytest.mark.parametrize("scaling", ["default", "linear", "llama3"])
def test_rope_tables(scaling: str) -> None:
    """The table is torch's to the last bits, in the old and the new spelling of config.json."""
    extra: dict[str, Any] = {
        "default": {},
        "linear": {"factor": 3.7},
        "llama3": {
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    }[scaling]
    for dim in (8, 64, 80, 128):
        for theta in (1e4, 5e5, 1e6):
            rope = {"rope_type": scaling, **extra}
            config = transformers.LlamaConfig(
                hidden_size=4 * dim,
                num_attention_heads=4,
                max_position_embeddings=131072,
                rope_parameters={**rope, "rope_theta": theta},
            )
            expected = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config).inv_freq.numpy()
            old = rotary({"rope_scaling": rope, "rope_theta": theta}, dim, 131072, 1.0).frequencies
            older = {"type" if key == "rope_type" else key: value for key, value in rope.items()}
            new = rotary({"rope_parameters": {**rope, "rope_theta": theta}}, dim, 131072, 1.0).frequencies
            np.testing.assert_array_max_ulp(old, expected, 2)
            np.testing.assert_array_equal(old, new)
            np.testing.assert_array_equal(
                old, rotary({"rope_scaling": older, "rope_theta": theta}, dim, 131072, 1.0).frequencies
            )


@pytest.mark.parametrize("linear", ["autobitlinear", "bitlinear"])
def test_packed_bitnet_is_the_master_rounded(tiny: Callable[..., Path], tmp_path: Path, linear: str) -> None:
    pack_bitnet(tiny("bitnet"), tmp_path, linear)
    with open_model(tiny("bitnet")) as master, open_model(tmp_path) as packed:
        assert packed.spec.ternary
        assert packed.spec.to_config_bytes()[:92] == master.spec.to_config_bytes()[:92]
        for tensor in master.tensors:
            np.testing.assert_allclose(whole(packed, tensor.name), whole(master, tensor.name), rtol=3e-7)


@pytest.mark.parametrize("kind", ["made", "trained"])
def test_packed_weights_are_unpacked_as_transformers_does(bitnet: Callable[[str], Path], kind: str) -> None:
    from safetensors.torch import load_file as load_weights
    from transformers.integrations.bitnet import unpack_weights

    unpack = getattr(unpack_weights, "_torchdynamo_orig_callable", unpack_weights)
    directory = bitnet(kind)
    stored = load_weights(directory / "model.safetensors")
    with open_model(directory) as model:
        for tensor in [t for t in model.tensors if t.role == "body" and t.layer in (0, model.spec.layers - 1)]:
            packed, scale = stored[tensor.source], stored[f"{tensor.source}_scale"].float().numpy()
            expected = unpack(packed, torch.float32).numpy() * scale
            np.testing.assert_array_equal(whole(model, tensor.name, 80), expected)


def test_unpacked_ternary_weights(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """Offline mode with float weights: the values -1, 0, 1 and weight_scale."""
    from safetensors.numpy import load_file, save_file

    pack_bitnet(tiny("bitnet"), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name, packed in list(tensors.items()):
        if packed.dtype == np.uint8:
            parts = [(packed >> (2 * i) & 3).astype(np.float32) - 1 for i in range(4)]
            tensors[name] = np.concatenate(parts)
    with open_model(tmp_path) as model:
        expected = {tensor.name: whole(model, tensor.name) for tensor in model.tensors}
    save_file(tensors, tmp_path / "model.safetensors")
    with open_model(tmp_path) as model:
        for tensor in model.tensors:
            np.testing.assert_array_equal(whole(model, tensor.name), expected[tensor.name])


def test_a_llama_with_bitnet_quantisation_is_ternary(tiny: Callable[..., Path], tmp_path: Path) -> None:
    pack_bitnet(tiny("llama"), tmp_path, "bitlinear")
    with open_model(tmp_path) as model:
        assert model.spec.ternary
        assert not model.spec.sub_norms
        assert len(np.unique(whole(model, "layers.0.mlp.up.weight"))) == 3


def test_only_the_rows_asked_for_are_in_memory(tmp_path: Path) -> None:
    import tracemalloc

    write_synthetic(tmp_path, "small")
    with open_model(tmp_path) as model:
        embedding = next(tensor for tensor in model.tensors if tensor.role == "embedding")
        tracemalloc.start()
        rows = sum(len(chunk) for chunk in model.source(embedding).chunks(1024))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert rows == 151936
    assert peak < 4 << 20  # the embedding is 78 MB as float32


def test_qwen_1_5b_shape() -> None:
    """The synthetic checkpoint has the parameters of Qwen2.5-1.5B."""
    from support.checkpoints import SHAPES, _synthetic_tensors

    total = sum(
        int(np.prod(shape))
        for _, shape in _synthetic_tensors(
            {"model_type": "qwen2", "tie_word_embeddings": True, **SHAPES["qwen2.5-1.5b"]}
        )
    )
    assert total == 1543714304


# ---- what cannot be read ---------------------------------------------------------------------------------------------


def edit(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text("utf-8"))
    change(config)
    path.write_text(json.dumps(config), "utf-8")


CONFIG_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"architectures": ["GemmaForCausalLM"]}, "unsupported architecture GemmaForCausalLM; supported: LlamaFor"),
    ({"architectures": [["x"]]}, "unsupported architecture"),
    ({"architectures": None, "model_type": "gpt2"}, "unsupported architecture gpt2"),
    ({"hidden_size": None}, "config.json has no hidden_size"),
    ({"hidden_size": "64"}, 'hidden_size in config.json is "64"'),
    ({"num_hidden_layers": -1}, "num_hidden_layers"),
    ({"num_key_value_heads": 3}, "num_key_value_heads"),
    ({"head_dim": 15}, r"head_dim \(15\) must be even"),
    ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported; supported: silu, relu2"),
    ({"hidden_act": ["silu"]}, "hidden_act"),
    ({"rms_norm_eps": -1}, "rms_norm_eps"),
    ({"rope_parameters": {"rope_type": "proportional"}}, "rotary scaling 'proportional' is not supported"),
    ({"rope_scaling": {"type": "ntk", "factor": 2.0}}, "rotary scaling 'ntk' is not supported"),
    ({"rope_parameters": {"rope_type": "linear"}}, "rotary parameter factor"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
    ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differ between layers"),
    ({"quantization_config": {"quant_method": "gptq"}}, r"already quantised \(gptq, .* plain floats: .*remove"),
    ({"quantization_config": "int8"}, "already quantised"),
    ({"tie_word_embeddings": False}, "no tensor lm_head.weight; .*tie_word_embeddings"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    ({"vocab_size": 513}, r"model.embed_tokens.weight has the shape \[512, 64\], config.json asks for \[513, 64\]"),
    ({"attention_bias": True}, "no tensor model.layers.0.self_attn.q_proj.bias"),
    ({"num_hidden_layers": 4}, "no tensor model.layers.3"),
]


@pytest.mark.parametrize(("change", "message"), CONFIG_ERRORS)
def test_a_config_that_is_not_supported(
    tiny: Callable[..., Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    import shutil

    shutil.copytree(tiny("llama"), tmp_path / "m")
    edit(tmp_path / "m", lambda config: config.update(change))
    with pytest.raises(UserError, match=message) as error:
        open_model(tmp_path / "m")
    assert "\n" not in str(error.value)


def test_mixed_attention(tiny: Callable[..., Path], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tiny("qwen2-sliding"), tmp_path / "m")
    edit(tmp_path / "m", lambda config: config.update(layer_types=["full_attention", "sliding_attention"] * 2))
    with pytest.raises(UserError, match="has 4 names for 3 layers"):
        open_model(tmp_path / "m")
    edit(tmp_path / "m", lambda config: config.update(layer_types=None, max_window_layers=1))
    with open_model(tmp_path / "m") as model:
        assert (model.spec.sliding_window, model.spec.full_layers) == (24, {0})
    edit(tmp_path / "m", lambda config: config.update(max_window_layers=3))
    with open_model(tmp_path / "m") as model:
        assert model.spec.sliding_window == 0
    edit(tmp_path / "m", lambda config: config.update(max_window_layers=0, sliding_window=512))
    with open_model(tmp_path / "m") as model:  # as wide as the context: no window
        assert model.spec.sliding_window == 0


def _without(name: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        from safetensors.numpy import load_file, save_file

        tensors = load_file(directory / "model.safetensors")
        del tensors[name]
        save_file(tensors, directory / "model.safetensors")

    return change


def _with(name: str, value: float) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        from safetensors.numpy import load_file, save_file

        tensors = load_file(directory / "model.safetensors")
        tensors[name] = tensors[name].copy()
        tensors[name].flat[-1] = value
        save_file(tensors, directory / "model.safetensors")

    return change


def _replace(name: str, value: NDArray[Any]) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        from safetensors.numpy import load_file, save_file

        save_file(load_file(directory / "model.safetensors") | {name: value}, directory / "model.safetensors")

    return change


def _cast(name: str, dtype: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        from safetensors.numpy import load_file, save_file

        tensors = load_file(directory / "model.safetensors")
        tensors[name] = tensors[name].astype(dtype)
        save_file(tensors, directory / "model.safetensors")

    return change


def _bytes(change: Callable[[bytes], bytes], name: str = "model.safetensors") -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_bytes(change((directory / name).read_bytes())) and None


def _index(shard: str, tensor: str = "model.norm.weight") -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        (directory / "model.safetensors").rename(directory / "model-00001-of-00001.safetensors")
        text = json.dumps({"weight_map": {tensor: shard}})
        (directory / "model.safetensors.index.json").write_text(text, "utf-8")

    return change


def _empty_index(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model-00001-of-00001.safetensors")
    (directory / "model.safetensors.index.json").write_text("{}", "utf-8")


def _pickle(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


FILE_ERRORS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing tensor": (_without("model.layers.1.mlp.up_proj.weight"), "no tensor model.layers.1.mlp.up_proj.weight"),
    "truncated": (_bytes(lambda data: data[:-5]), "truncated: tensor .* download it again"),
    "truncated header": (_bytes(lambda data: data[:100]), "truncated inside its header"),
    "empty": (_bytes(lambda data: b""), "truncated"),
    "hostile header size": (_bytes(lambda data: b"\xff" * 8 + data[8:]), "not a safetensors file"),
    "header not JSON": (_bytes(lambda data: data[:8] + b"!" + data[9:]), "its header cannot be read"),
    "deep header": (_bytes(lambda data: struct.pack("<Q", 200_000) + b"[" * 200_000), "its header cannot be read"),
    "header a list": (_bytes(lambda data: struct.pack("<Q", 2) + b"[]"), "not a JSON object"),
    "entry without sense": (_bytes(lambda data: struct.pack("<Q", 13) + b'{"a":"b","c":1}'[:13]), "not JSON"),
    "entry not an object": (_bytes(lambda data: struct.pack("<Q", 7) + b'{"a":1}'), "entry of tensor a is invalid"),
    "whole numbers": (_cast("model.norm.weight", "int64"), "tensor model.norm.weight .* is I64; weights must be BF16"),
    "integers": (_cast("model.layers.0.mlp.up_proj.weight", "uint8"), "is U8; weights must be"),
    "missing shard": (
        _index("model-00002-of-00002.safetensors"),
        "names model-00002-of-00002.safetensors, which is not",
    ),
    "shard elsewhere": (_index("../model.safetensors"), "which is not in"),
    "tensor not in its shard": (
        _index("model-00001-of-00001.safetensors", "model.nothing"),
        "holds model.nothing, but it does not",
    ),
    "index without a map": (_empty_index, "no weight_map"),
    "config not JSON": (_bytes(lambda data: data[:-3], "config.json"), "config.json cannot be read"),
    "config a list": (_bytes(lambda data: b"[1]", "config.json"), "not a JSON object"),
    "no config": (lambda directory: (directory / "config.json").unlink(), "no config.json"),
    "no weights": (lambda directory: (directory / "model.safetensors").unlink(), "has no model.safetensors"),
    "pickles": (_pickle, "only safetensors are read"),
}


@pytest.mark.parametrize("what", FILE_ERRORS)
def test_a_checkpoint_that_is_damaged(tiny: Callable[..., Path], tmp_path: Path, what: str) -> None:
    import shutil

    change, message = FILE_ERRORS[what]
    shutil.copytree(tiny("llama"), tmp_path / "m")
    change(tmp_path / "m")
    with pytest.raises(UserError, match=message) as error:
        open_model(tmp_path / "m")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_that_are_not_finite(tmp_path: Path, dtype: str, value: float) -> None:
    write_tiny(tmp_path, "llama", "float32" if dtype == "bfloat16" else dtype)
    name = "model.layers.2.mlp.down_proj.weight"
    _with(name, value)(tmp_path)
    if dtype == "bfloat16":
        from safetensors.torch import load_file, save_file

        tensors = {key: tensor.bfloat16() for key, tensor in load_file(tmp_path / "model.safetensors").items()}
        save_file(tensors, tmp_path / "model.safetensors")
    with open_model(tmp_path) as model, pytest.raises(UserError, match=f"tensor {name} holds NaN or infinite"):
        whole(model, "layers.2.mlp.down.weight")


def test_packed_checkpoints_that_are_damaged(tiny: Callable[..., Path], tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    pack_bitnet(tiny("bitnet"), tmp_path)
    _with(name, 255)(tmp_path)
    with open_model(tmp_path) as model, pytest.raises(UserError, match=f"{name} holds a code that is not ternary"):
        whole(model, "layers.0.mlp.up.weight")
    pack_bitnet(tiny("bitnet"), tmp_path)
    _with(f"{name}_scale", 0.0)(tmp_path)
    with pytest.raises(UserError, match=f"{name}_scale is not a usable scale"):
        open_model(tmp_path)
    pack_bitnet(tiny("bitnet"), tmp_path)
    _without(f"{name}_scale")(tmp_path)
    with pytest.raises(UserError, match=f"no tensor {name}_scale"):
        open_model(tmp_path)
    pack_bitnet(tiny("bitnet"), tmp_path)
    edit(tmp_path, lambda config: config["quantization_config"].update(modules_to_not_convert=["lm_head", "q_proj"]))
    with pytest.raises(UserError, match="leaves q_proj unquantised"):
        open_model(tmp_path)
    edit(tmp_path, lambda config: config["quantization_config"].update(modules_to_not_convert=None, use_rms_norm=True))
    with pytest.raises(UserError, match="use_rms_norm"):
        open_model(tmp_path)


def test_not_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Checkpoint(tmp_path / "nothing")


def test_tensors_of_no_use_are_noted(tiny: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    write_tiny(tmp_path, "llama")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.extra.weight"] = np.ones(3, np.float32)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(3, np.float32)
    tensors["lm_head.weight"] = np.ones((512, 64), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with open_model(tmp_path) as model:
        assert model.notes[1:] == [
            "1 tensors of the checkpoint are not part of LlamaForCausalLM and not used: model.extra.weight"
        ]


def test_a_checkpoint_saved_without_its_head(tiny: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    write_tiny(tmp_path, "llama")
    tensors = {key.removeprefix("model."): value for key, value in load_file(tmp_path / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors")
    with open_model(tmp_path) as model:
        np.testing.assert_array_equal(whole(model, "norm.weight")[0], tensors["norm.weight"])
