"""Rotary position tables: inverse frequencies, radians per position, as transformers' modeling_rope_utils has them.

Types: default, linear, dynamic, yarn, longrope, llama3. config.json holds them as `rope_theta` with an optional
`rope_scaling`, or since transformers 5 as one dictionary `rope_parameters`.

The table of a type that changes with the length of the text (dynamic, longrope) is the one of texts up to the length
the model was trained for, so `Rotary.context` ends there: a longer text would need keys that were rotated otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import InputError, UnsupportedError

_SMALLEST, _LARGEST = 1e-30, 1e30
"""Of every parameter: float32 holds the quotients, too."""
SUPPORTED = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")


@dataclass(frozen=True)
class Rotary:
    """frequencies: float32 (dim / 2,), of a head's first `dim` values; the others are not rotated. scale: of cosines
    and sines. context: positions for which the table holds."""

    frequencies: NDArray[np.float32]
    dim: int
    context: int
    scale: float = 1.0


def rotary(config: dict[str, Any], head_dim: int, context: int, theta: float, partial: bool = False) -> Rotary:
    """theta: the family's default; partial: the family can rotate a part of each head. UserError for another type of
    scaling, and for parameters of which a frequency, or an angle within the context, is not finite in float32."""
    with np.errstate(all="ignore"):
        found = _rotary(config, head_dim, context, theta, partial)
        angles = found.frequencies * np.float32(context)
    if not np.isfinite(angles).all() or not math.isfinite(found.scale):
        raise InputError(
            "the rotary parameters in config.json (rope_theta, rope_scaling) give positions that are not finite: "
            "they are damaged"
        )
    return found


def _rotary(config: dict[str, Any], head_dim: int, context: int, theta: float, partial: bool) -> Rotary:
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(scaling, dict):
        raise InputError("rope_scaling in config.json is not an object")
    if any(isinstance(value, dict) for value in scaling.values()):
        raise UnsupportedError("rotary parameters that differ between layers are not supported")
    kind = str(scaling.get("rope_type", scaling.get("type", "default")) or "default")
    if kind not in SUPPORTED:
        raise UnsupportedError(f"rotary scaling {kind!r} is not supported; supported: {', '.join(SUPPORTED)}")
    dim = _rotated(scaling, config, head_dim, partial)
    base = _number(scaling, "rope_theta", config.get("rope_theta") or theta)
    if kind == "dynamic" and scaling.get("alpha"):  # Hunyuan's: one base for every length
        base *= _number(scaling, "alpha") ** (dim / (dim - 2)) if dim > 2 else 1.0
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    powers = np.power(base, exponents.astype(np.float64)).astype(np.float32)
    table: NDArray[np.float32] = np.float32(1.0) / powers
    if kind == "linear":
        table = table / np.float32(_number(scaling, "factor"))
    elif kind == "llama3":
        table = _llama3(table, scaling, config, context)
    elif kind == "yarn":
        return Rotary(
            _yarn(powers, base, scaling, config, context), dim, context, _yarn_scale(scaling, config, context)
        )
    elif kind == "longrope":
        return _longrope(powers, scaling, config, context)
    return Rotary(table, dim, context)


def _rotated(scaling: dict[str, Any], config: dict[str, Any], head_dim: int, partial: bool) -> int:
    """How many values of a head are rotated."""
    part = scaling.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if part in (None, 1, 1.0):
        return head_dim
    known = isinstance(part, (int, float)) and not isinstance(part, bool) and 0 < part <= 1
    dim = int(head_dim * part) if known else 0
    if not partial or dim < 2 or dim % 2:
        raise UnsupportedError(
            f"partial_rotary_factor {part} is not supported"
            + (f" for heads of {head_dim}" if partial else "; only whole heads are rotated")
        )
    return dim


def _original(scaling: dict[str, Any], config: dict[str, Any], context: int) -> float:
    """Positions the model was trained for before its context was stretched."""
    key = "original_max_position_embeddings"
    return _number(scaling if config.get(key) is None else config, key, context)


def _yarn_scale(scaling: dict[str, Any], config: dict[str, Any], context: int) -> float:
    """YaRN (Peng et al. 2023, arXiv:2309.00071), section 3.4, with the keys that DeepSeek added."""
    if scaling.get("attention_factor") is not None:
        return _number(scaling, "attention_factor")
    factor = _yarn_factor(scaling, config, context)

    def of(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return of(_number(scaling, "mscale")) / of(_number(scaling, "mscale_all_dim"))
    return of(1.0)


def _yarn_factor(scaling: dict[str, Any], config: dict[str, Any], context: int) -> float:
    stretched = context / _original(scaling, config, context)
    return stretched if scaling.get("factor") is None else _number(scaling, "factor")


def _yarn(
    powers: NDArray[np.float32], base: float, scaling: dict[str, Any], config: dict[str, Any], context: int
) -> NDArray[np.float32]:
    """Section 3.2: waves that turn often keep their frequency, slow ones are stretched by `factor`, those between
    blended."""
    dim, original = 2 * len(powers), _original(scaling, config, context)
    factor = np.float32(_yarn_factor(scaling, config, context))
    if base <= 1:
        raise InputError(f"rotary parameter rope_theta in config.json is {base}, which yarn cannot stretch")

    def turning(key: str, default: float) -> float:
        turns = _number(scaling, key, default) if scaling.get(key) else default
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = turning("beta_fast", 32.0), turning("beta_slow", 1.0)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high = high + 0.001 if low == high else high
    ramp = np.clip((np.arange(len(powers), dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    kept = np.float32(1) - ramp
    stretched = np.float32(1) / (factor * powers)
    table: NDArray[np.float32] = stretched * (np.float32(1) - kept) + np.float32(1) / powers * kept
    return table


def _longrope(powers: NDArray[np.float32], scaling: dict[str, Any], config: dict[str, Any], context: int) -> Rotary:
    """LongRoPE (Ding et al. 2024, arXiv:2402.13753): the factors of short texts."""
    original = _original(scaling, config, context)
    factors = scaling.get("short_factor")
    if not isinstance(factors, list) or len(factors) != len(powers):
        raise InputError(f"short_factor of the rotary parameters in config.json is not a list of {len(powers)} numbers")
    divisors = np.array([_number({"short_factor": value}, "short_factor") for value in factors], np.float32)
    factor = context / original if scaling.get("factor") is None else _number(scaling, "factor")
    scale = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
    if scaling.get("attention_factor") is not None:
        scale = _number(scaling, "attention_factor")
    table: NDArray[np.float32] = np.float32(1) / (divisors * powers)
    return Rotary(table, 2 * len(powers), min(context, int(original)), scale)


def _llama3(
    table: NDArray[np.float32], scaling: dict[str, Any], config: dict[str, Any], context: int
) -> NDArray[np.float32]:
    """Long waves are stretched by `factor`, short ones kept, those between blended (Llama 3.1)."""
    factor = np.float32(_number(scaling, "factor"))
    low, high = _number(scaling, "low_freq_factor"), _number(scaling, "high_freq_factor")
    original = _original(scaling, config, context)
    if high == low:
        raise InputError("rope_scaling in config.json: high_freq_factor equals low_freq_factor")
    wave = np.float32(2 * math.pi) * np.reciprocal(table)  # torch divides a number by a tensor in this way
    smooth = (np.float32(original) * np.reciprocal(wave) - np.float32(low)) / np.float32(high - low)
    blended = (np.float32(1) - smooth) * table / factor + smooth * table
    stretched = np.where(wave > np.float32(original / low), table / factor, table)
    between = ~(wave < np.float32(original / high)) & ~(wave > np.float32(original / low))
    return np.where(between, blended, stretched).astype(np.float32)


def _number(values: dict[str, Any], key: str, default: Any = None) -> float:
    value = values.get(key, default)
    if value is None:
        raise InputError(f"config.json has no rotary parameter {key}")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _SMALLEST <= value <= _LARGEST:
        raise InputError(f"rotary parameter {key} in config.json is {value!r}, not a positive number")
    return float(value)
