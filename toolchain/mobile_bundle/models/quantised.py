"""Recognises checkpoints that are already quantised in a way that is not read, by config.json and by their tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mobile_bundle.errors import InputError
from mobile_bundle.models.checkpoint import Checkpoint

_FLOATS = ("BF16", "F16", "F32", "F64")
_ENDINGS = {
    ".g_idx": "GPTQ",
    ".qzeros": "AWQ or GPTQ",
    ".qweight": "AWQ or GPTQ",
    ".SCB": "bitsandbytes, 8 bits",
    ".absmax": "bitsandbytes, 4 bits",
    ".quant_map": "bitsandbytes, 4 bits",
    ".weight_packed": "compressed-tensors",
    ".weight_zero_point": "compressed-tensors",
    "_blocks": "MXFP4",
    ".W_q": "HQQ",
    ".weight_scale_inv": "fp8",
    ".weight._data": "quanto",
}
"""What names of tensors end in, and the method that gives them such names."""
_INSTEAD = (
    "give the original checkpoint in bf16, f16 or f32; this tool quantises it itself (of quantised checkpoints it "
    "reads only BitNet's)"
)


def refuse_quantised(checkpoint: Checkpoint) -> None:
    """UserError for every quantisation but BitNet's, with its name and what to do."""
    config = checkpoint.config
    key = next((key for key in ("quantization_config", "compression_config", "quantization") if config.get(key)), None)
    section = config.get(key) if key else config.get("quantization_config")
    if isinstance(section, dict) and section.get("quant_method") == "bitnet":
        return
    found = _by_tensors(checkpoint, mlx=key == "quantization")
    if section is None and found is None:
        return
    if section is None:
        raise InputError(f"{checkpoint.directory} is already quantised ({found}); {_INSTEAD}")
    key = key or "quantization_config"
    method = _method(key, section)
    if found is None:
        raise InputError(
            f"config.json says that the checkpoint is already quantised ({method}, {key}), but its tensors are plain "
            f"floats: if they are the original weights, remove {key} from config.json"
        )
    raise InputError(f"{checkpoint.directory} is already quantised ({method}, {key} in config.json); {_INSTEAD}")


def _method(key: str, section: Any) -> str:
    """The name of what a section of config.json describes."""
    if key == "quantization":
        return "MLX"
    if not isinstance(section, dict):
        return str(section)[:40]
    if section.get("load_in_4bit") or section.get("load_in_8bit") or section.get("bnb_4bit_quant_type"):
        return "bitsandbytes, " + ("4 bits" if section.get("load_in_4bit") else "8 bits")
    for name in ("quant_method", "quant_algo", "format", "quant_type"):
        if isinstance(section.get(name), str) and section[name]:
            return str(section[name])[:40]
    return "a method that it does not name"


def _by_tensors(checkpoint: Checkpoint, mlx: bool) -> str | None:
    """The method that names and dtypes of the tensors speak of; None if they are plain floats, or nothing known."""
    names = checkpoint.names()
    dtypes = {checkpoint.dtype(name) for name in names}
    if mlx or (_some(names, ".scales") and _some(names, ".biases") and "U32" in dtypes):
        return "MLX" if "U32" in dtypes else None
    for ending, method in _ENDINGS.items():
        if _some(names, ending):
            return method
    narrow = sorted(dtype for dtype in dtypes if dtype.startswith(("F8_", "F6_", "F4")))
    if narrow:
        return narrow[0]
    projections = {checkpoint.dtype(name) for name in names if name.endswith("_proj.weight")}
    return f"{min(projections)} weights" if projections and not projections & set(_FLOATS) else None


def _some(names: Iterable[str], ending: str) -> bool:
    return any(name.endswith(ending) for name in names)
