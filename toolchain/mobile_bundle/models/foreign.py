"""Recognises paths that are not checkpoints, by file names alone, and says what to do instead."""

from __future__ import annotations

import re
from pathlib import Path

from mobile_bundle.errors import InputError, UserError

_GIVE = "give the directory of a Hugging Face checkpoint"
_CONVERT = "load it with transformers and call save_pretrained(DIRECTORY)"
_STATE = re.compile(r"(optimizer|scheduler|scaler|rng_state|random_states|training_args|zero_pp_rank|mp_rank)")
_TRAINING = re.compile(_STATE.pattern + r".*\.(pt|pth|bin|pkl)|global_step\d+|zero_to_fp32\.py|trainer_state\.json")
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")

_FILES = {
    ".safetensors": "is one file of a checkpoint; give the directory that holds it, with its config.json",
    ".json": "is one file of a checkpoint; give the directory that holds it",
    ".onnx": f"is an ONNX model; {_GIVE} that it was exported from",
    ".tflite": f"is a TensorFlow Lite model; {_GIVE} that it was converted from",
    ".pte": f"is an ExecuTorch program; {_GIVE} that it was exported from",
    ".h5": f"holds TensorFlow weights; {_GIVE} with safetensors",
    ".msgpack": f"holds Flax weights; {_GIVE} with safetensors",
    **dict.fromkeys(
        (".bin", ".pt", ".pth", ".ckpt", ".pkl"), f"is a PyTorch pickle; {_GIVE} with safetensors ({_CONVERT})"
    ),
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".xz", ".7z"), "is an archive; unpack it and give the directory"),
}


def refuse_other_paths(path: Path) -> None:
    """UserError unless the path is a directory that can be listed."""
    if path.is_dir():
        try:
            next(path.iterdir(), None)
        except OSError as error:
            raise InputError(f"cannot read the directory {path}: {error.strerror}") from error
        return
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path} is not a directory: it is a link to something that does not exist")
    if path.exists():
        what = _FILES.get(path.suffix.lower(), f"is not a directory; {_GIVE}")
        raise InputError(f"{path} {what}")
    raise InputError(f"{path} does not exist; {_GIVE}")


def refuse_adapter(directory: Path) -> None:
    """UserError for a LoRA or another PEFT adapter, which is not a whole model."""
    found = next((name for name in _ADAPTERS if (directory / name).exists()), None)
    if found:
        raise InputError(
            f"{directory} holds an adapter (LoRA or another of PEFT, {found}), not a whole model: merge it into its "
            f"base model with peft (AutoPeftModelForCausalLM.from_pretrained(...).merge_and_unload(), then "
            f"save_pretrained(DIRECTORY)) and give that directory"
        )


def without_weights(directory: Path) -> UserError:
    """The error for a directory without safetensors of a model."""
    return _error(directory, "no model.safetensors, no shards and no model.safetensors.index.json")


def without_config(directory: Path) -> UserError:
    """The error for a directory without config.json."""
    return _error(directory, "no config.json")


def _error(directory: Path, lacks: str) -> UserError:
    return InputError(f"{directory} has {lacks}{_explain(directory)}")


def _explain(directory: Path) -> str:
    names = sorted(path.name for path in directory.iterdir())
    suffixes = {Path(name).suffix.lower() for name in names}

    def first(*endings: str) -> str:
        return next(name for name in names if name.lower().endswith(endings))

    if "manifest.json" in names and "weights.ptd" in names:
        return ": it is already a bundle; give the checkpoint that it was built from"
    if "model_index.json" in names:
        return ": it is a diffusers pipeline, which does not generate text"
    if directory.name.startswith("models--") and "snapshots" in names:
        revisions = sorted(path.name for path in (directory / "snapshots").iterdir())
        return f": it is a cache of the hub; give {Path('snapshots', revisions[0] if revisions else 'REVISION')} in it"
    others = sorted(name for name in names if name.endswith(".safetensors") and not name.startswith("adapter"))
    if "params.json" in names and any(name.startswith("consolidated.") for name in names):
        return (
            f": it holds the model in its publisher's own layout ({first('.pth', '.safetensors')}); {_GIVE} in "
            f"transformers' layout"
        )
    if others:
        listed = ", ".join(others[:3]) + (" ..." if len(others) > 3 else "")
        return f"; it holds {listed}: if that is the whole model, rename it to model.safetensors"
    pickles = [name for name in names if name.endswith((".bin", ".pth", ".pt", ".ckpt")) and not _STATE.match(name)]
    if pickles:
        return f"; it holds PyTorch pickles ({pickles[0]}); only safetensors are read: {_CONVERT}"
    if any(_TRAINING.fullmatch(name) for name in names) or ".distcp" in suffixes:
        state = next(name for name in names if _TRAINING.fullmatch(name) or name.endswith(".distcp"))
        return (
            f": it holds the state of a training run ({state}), not a model; save the model itself with "
            f"save_pretrained(DIRECTORY), after zero_to_fp32.py for DeepSpeed or `accelerate merge-weights` for FSDP"
        )
    if ".gguf" in suffixes:
        return f"; it holds a GGUF file ({first('.gguf')}), which is a whole model: give that file"
    if ".onnx" in suffixes or (directory / "onnx").is_dir():
        return f"; it holds an ONNX model; {_GIVE} in safetensors that it was exported from"
    if suffixes & {".h5", ".msgpack", ".ot"} or "saved_model.pb" in names:
        return (
            f"; it holds weights for TensorFlow, Flax or Rust; only safetensors are read: {_CONVERT} "
            f"(from_pretrained(..., from_tf=True or from_flax=True) of transformers 4)"
        )
    if "tokenizer.json" in names or "tokenizer.model" in names or "tokenizer_config.json" in names:
        return ": it holds only a tokenizer; download the weights too"
    inner = [name for name in names if (directory / name / "config.json").is_file()]
    if inner:
        return f"; did you mean {directory / inner[0]}?"
    if not names:
        return ": it is empty"
    return f"; {_GIVE}"
