"""What is no checkpoint that is read says what it is and what to do, in one line, by every command that takes one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mobile_bundle.errors import UserError
from mobile_bundle.models import open_model
from mobile_bundle.pipeline.uncompressed import open_for_evaluation
from mobile_bundle.planning.estimate import checkpoint_shape
from support.builds import build
from support.paths import EXAMPLE

pytest.importorskip("torch")
import torch
from safetensors.torch import load_file, save_file

BIN = Path(sys.executable).parent
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 269060552\n"
Change = Callable[[Path], object]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the example checkpoint."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "m"))


def one_line(path: Path, message: str) -> None:
    """Build, estimate and eval refuse the path with the same line."""
    out = path.parent / "out.mbundle"
    attempts: list[Callable[[], object]] = [
        lambda: build(path, out, formats=("native",)),
        lambda: checkpoint_shape(path),
        lambda: open_for_evaluation(path, lambda done, total, what: None).__enter__(),
    ]
    for attempt in attempts:
        with pytest.raises(UserError, match=message) as error:
            attempt()
        assert "\n" not in str(error.value)
        assert "None" not in str(error.value)
    assert not out.exists()


def without(*names: str) -> Change:
    """The checkpoint without those files."""

    def change(model: Path) -> None:
        for name in names:
            (model / name).unlink()

    return change


def only(*names: str) -> Change:
    """Nothing but (empty) files and folders of those names; a name that ends in "/" is a folder."""

    def change(model: Path) -> None:
        shutil.rmtree(model)
        model.mkdir()
        for name in names:
            (model / name).parent.mkdir(exist_ok=True, parents=True)
            (model / name).mkdir() if name.endswith("/") else (model / name).write_bytes(b"")

    return change


def instead(*names: str) -> Change:
    """Those files instead of the weights."""

    def change(model: Path) -> None:
        (model / "model.safetensors").unlink()
        for name in names:
            (model / name).parent.mkdir(exist_ok=True)
            (model / name).write_bytes(b"")

    return change


def with_file(name: str, text: str = "{}") -> Change:
    return lambda model: (model / name).write_text(text, "utf-8")


DIRECTORIES: dict[str, tuple[Change, str]] = {
    "LFS weights": (with_file("model.safetensors", POINTER), "model.safetensors is a git-lfs pointer.*git lfs pull"),
    "LFS tokenizer": (with_file("tokenizer.json", POINTER), "tokenizer.json is a git-lfs pointer"),
    "LFS config": (with_file("config.json", POINTER), "config.json is a git-lfs pointer"),
    "LFS index": (with_file("model.safetensors.index.json", POINTER), "index.json is a git-lfs pointer"),
    "LFS generation": (with_file("generation_config.json", POINTER), "generation_config.json is a git-lfs pointer"),
    "adapter alone": (only("adapter_config.json", "adapter_model.safetensors"), r"adapter \(LoRA.*merge it into"),
    "adapter beside a config": (
        lambda model: instead("adapter_config.json", "adapter_model.bin")(model),
        r"adapter \(LoRA.*adapter_config.json",
    ),
    "adapter beside a model": (with_file("adapter_config.json"), r"adapter \(LoRA"),
    "pickle": (
        instead("pytorch_model.bin"),
        r"PyTorch pickles \(pytorch_model.bin\); only safetensors.*save_pretrained",
    ),
    "pickle shards": (
        instead("pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "training_args.bin"),
        r"PyTorch pickles \(pytorch_model-00001-of-00002.bin\)",
    ),
    "pickle of a trainer": (instead("optimizer.pt", "pytorch_model.bin", "rng_state.pth"), r"pickles \(pytorch_model"),
    "GGUF": (only("model-q4_k_m.gguf"), r"holds a GGUF file \(model-q4_k_m.gguf\), .*: give that file"),
    "GGUF beside a config": (instead("model-q4_k_m.gguf"), "no model.safetensors.*holds a GGUF file"),
    "ONNX": (instead("model.onnx"), "holds an ONNX model"),
    "ONNX in a folder": (instead("onnx/model.onnx"), "holds an ONNX model"),
    "TensorFlow": (instead("tf_model.h5"), "holds weights for TensorFlow, Flax"),
    "Flax": (instead("flax_model.msgpack"), "holds weights for TensorFlow, Flax"),
    "tokenizer alone": (without("config.json", "model.safetensors"), "holds only a tokenizer; download the weights"),
    "config and tokenizer": (without("model.safetensors"), "holds only a tokenizer; download the weights"),
    "trainer state": (instead("optimizer.pt", "trainer_state.json"), r"state of a training run .*save_pretrained"),
    "DeepSpeed": (only("global_step500/", "latest", "zero_to_fp32.py"), "state of a training run.*zero_to_fp32.py"),
    "FSDP": (only("__0_0.distcp", ".metadata"), "state of a training run.*merge-weights"),
    "maker's layout": (only("consolidated.00.pth", "params.json", "tokenizer.model"), "its publisher's own layout"),
    "another name": (
        lambda model: (model / "model.safetensors").rename(model / "model.fp16.safetensors"),
        "holds model.fp16.safetensors: .*rename it to model.safetensors",
    ),
    "diffusers": (only("model_index.json", "unet/"), "diffusers pipeline"),
    "empty": (only(), "it is empty"),
    "folder above": (lambda model: only("inner/config.json")(model), "did you mean .*inner"),
    "no config": (without("config.json"), "no config.json"),
}


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_directory_says_what_it_is(model: Path, name: str) -> None:
    change, message = DIRECTORIES[name]
    change(model)
    one_line(model, message)


def test_a_cache_of_the_hub(tmp_path: Path) -> None:
    cache = tmp_path / "models--a--b"
    (cache / "snapshots/0123").mkdir(parents=True)
    one_line(cache, "a cache of the hub; give snapshots/0123 in it")


def test_a_bundle_is_not_built_again(bundle: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="it is already a bundle; give the checkpoint that it was built from"):
        open_model(bundle("affine-4bit"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "one file of a checkpoint; give the directory that holds it"),
        ("config.json", "one file of a checkpoint; give the directory"),
        ("model.gguf", "model.gguf is truncated inside its header"),
        ("model.onnx", "is an ONNX model"),
        ("pytorch_model.bin", "is a PyTorch pickle; .*save_pretrained"),
        ("model.tar", "is an archive; unpack it"),
        ("model", "is not a directory; give the directory of a Hugging Face checkpoint"),
    ],
)
def test_a_file_instead_of_a_directory(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    one_line(tmp_path / name, message)


def test_a_path_where_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nowhere does not exist"):
        open_model("nowhere")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UserError, match="a link to something that does not exist"):
        open_model("link")


# ---- quantised checkpoints -------------------------------------------------------------------------------------------

PROJECTION = "model.layers.0.mlp.up_proj"


def quantised(section: Any, key: str = "quantization_config", **tensors: str) -> Change:
    """config.json with a section (None: without one), and tensors of a projection instead of all projections' weights.
    tensors: what comes behind the projection's name, "__" for a dot, and the dtype."""

    def change(model: Path) -> None:
        config = json.loads((model / "config.json").read_text("utf-8"))
        if section is not None:
            config[key] = section
        (model / "config.json").write_text(json.dumps(config), "utf-8")
        if tensors:
            kept = {name: value for name, value in load_file(model / "model.safetensors").items() if "proj" not in name}
            for ending, dtype in tensors.items():
                kept[PROJECTION + ending.replace("__", ".")] = torch.ones(4, 4).to(getattr(torch, dtype))
            save_file(kept, model / "model.safetensors")

    return change


QUANTISED: dict[str, tuple[Change, str]] = {
    "GPTQ": (
        quantised({"quant_method": "gptq", "bits": 4}, __qweight="int32", __qzeros="int32", __g_idx="int32"),
        r"already quantised \(gptq, quantization_config .*give the original checkpoint",
    ),
    "GPTQ without a section": (
        quantised(None, __qweight="int32", __g_idx="int32"),
        r"already quantised \(GPTQ\)",
    ),
    "AWQ": (quantised({"quant_method": "awq"}, __qweight="int32", __qzeros="int32"), r"quantised \(awq,"),
    "AWQ without a section": (quantised(None, __qweight="int32", __qzeros="int32"), r"quantised \(AWQ or GPTQ\)"),
    "bitsandbytes 4": (
        quantised({"load_in_4bit": True}, __weight="uint8", __weight__absmax="uint8"),
        r"quantised \(bitsandbytes, 4 bits,",
    ),
    "bitsandbytes 8": (
        quantised({"quant_method": "bitsandbytes", "load_in_8bit": True}, __weight="int8", __SCB="float32"),
        r"quantised \(bitsandbytes, 8 bits,",
    ),
    "bitsandbytes 8 without a section": (
        quantised(None, __weight="int8", __SCB="float32"),
        r"quantised \(bitsandbytes, 8 bits\)",
    ),
    "compressed-tensors": (
        quantised({"quant_method": "compressed-tensors", "format": "pack-quantized"}, __weight_packed="int32"),
        r"quantised \(compressed-tensors,",
    ),
    "compressed-tensors, old": (
        quantised({"format": "pack-quantized"}, "compression_config", __weight_packed="int32"),
        r"quantised \(pack-quantized, compression_config",
    ),
    "fp8": (
        quantised({"quant_method": "fp8"}, __weight="float8_e4m3fn", __weight_scale_inv="float32"),
        r"quantised \(fp8,",
    ),
    "fp8 without a section": (quantised(None, __weight="float8_e4m3fn"), r"quantised \(F8_E4M3\)"),
    "mxfp4": (
        quantised({"quant_method": "mxfp4"}, __weight_blocks="uint8", __weight_scales="uint8"),
        r"quantised \(mxfp4,",
    ),
    "mxfp4 without a section": (quantised(None, __weight_blocks="uint8"), r"quantised \(MXFP4\)"),
    "MLX": (
        quantised({"group_size": 64, "bits": 4}, "quantization", __weight="uint32", __scales="float32"),
        r"quantised \(MLX, quantization in config.json\)",
    ),
    "MLX without a section": (
        quantised(None, __weight="uint32", __scales="float32", __biases="float32"),
        r"quantised \(MLX\)",
    ),
    "HQQ": (quantised({"quant_method": "hqq"}, __W_q="uint8"), r"quantised \(hqq,"),
    "plain floats": (
        quantised({"load_in_8bit": True}),
        r"\(bitsandbytes, 8 bits, quantization_config\), but its tensors are plain floats: .* remove",
    ),
    "plain floats, gptq": (quantised({"quant_method": "gptq"}), r"\(gptq, .*but its tensors are plain floats"),
    "a section of nothing": (quantised({}), r"\(a method that it does not name, quantization_config\), but"),
    "a section of another kind": (quantised(["int8"]), "already quantised .*plain floats"),
}


@pytest.mark.parametrize("name", QUANTISED)
def test_a_quantised_checkpoint_says_how(model: Path, name: str) -> None:
    change, message = QUANTISED[name]
    change(model)
    one_line(model, message)


def test_a_section_of_null_is_none(model: Path) -> None:
    quantised(None)(model)
    config = json.loads((model / "config.json").read_text("utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": None}), "utf-8")
    with open_model(model) as opened:
        assert opened.spec.layers == 6


# ---- commands --------------------------------------------------------------------------------------------------------


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    name, *rest = map(str, arguments)
    return subprocess.run([str(BIN / name), *rest], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_a_huge_model_is_refused_at_once_by_every_command(
    model: Path, bundle: Callable[..., Path], tmp_path: Path
) -> None:
    """A config.json that asks for 2^28 layers took all memory; the commands get 3 GB of addresses here."""
    config = json.loads((model / "config.json").read_text("utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1 << 28}), "utf-8")
    text = tmp_path / "text.txt"
    text.write_text("word " * 300, "utf-8")
    for arguments in (
        ("build-mobile-bundle", model, "-o", tmp_path / "x.mbundle"),
        ("mobile-bundle", "estimate", model),
        ("mobile-bundle", "eval", model, "--text", text, "--context", 16),
        (
            "mobile-bundle",
            "report",
            bundle("affine-4bit"),
            "--against",
            model,
            "--text",
            text,
            "-o",
            tmp_path / "r.html",
        ),
    ):
        limited = ("bash", "-c", 'ulimit -v 3000000 && exec "$@"', "bash", BIN / str(arguments[0]), *arguments[1:])
        process = subprocess.run(list(map(str, limited)), capture_output=True, text=True, timeout=60, check=False)
        assert process.returncode == 1
        assert "num_hidden_layers in config.json is 268435456, not a whole number from 1 to 1024" in process.stderr
        assert process.stderr.count("\n") == 1


def test_values_that_are_not_finite_do_not_invite_to_run_again(model: Path, tmp_path: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.5.mlp.up_proj.weight"][3, 3] = float("nan")
    save_file(tensors, model / "model.safetensors")
    process = command("build-mobile-bundle", model, "-o", tmp_path / "x.mbundle", "--recipe", "affine-4bit")
    assert process.returncode == 1
    last = process.stderr.strip().splitlines()[-1]
    assert "model.layers.5.mlp.up_proj.weight holds NaN or infinite values" in last
    assert "goes on" not in last
    assert "again" not in last
    assert f"finished tensors are kept in {tmp_path}/x.mbundle.parts, which may be deleted" in last
