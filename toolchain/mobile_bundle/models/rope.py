"""Rotary position tables: inverse frequencies, radians per position, as transformers' modeling_rope_utils has them.

Types: default, linear, llama3. config.json holds them as `rope_theta` with an optional `rope_scaling`, or since
transformers 5 as one dictionary `rope_parameters`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import InputError, UnsupportedError

_SMALLEST, _LARGEST = 1e-30, 1e30
"""Of every parameter: float32 holds the quotients, too."""
SUPPORTED = ("default", "linear", "llama3")


def inverse_frequencies(config: dict[str, Any], head_dim: int, context: int, theta: float) -> NDArray[np.float32]:
    """float32 (head_dim / 2,). theta: the family's default. UserError for another type of scaling, and for parameters
    of which a frequency, or an angle within the context, is not finite in float32."""
    with np.errstate(all="ignore"):
        table = _table(config, head_dim, context, theta)
        angles = table * np.float32(context)
    if not np.isfinite(angles).all():
        raise InputError(
            "the rotary parameters in config.json (rope_theta, rope_scaling) give positions that are not finite: "
            "they are damaged"
        )
    return table


def _table(config: dict[str, Any], head_dim: int, context: int, theta: float) -> NDArray[np.float32]:
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(scaling, dict):
        raise InputError("rope_scaling in config.json is not an object")
    if any(isinstance(value, dict) for value in scaling.values()):
        raise UnsupportedError("rotary parameters that differ between layers are not supported")
    kind = str(scaling.get("rope_type", scaling.get("type", "default")) or "default")
    if kind not in SUPPORTED:
        raise UnsupportedError(f"rotary scaling {kind!r} is not supported; supported: {', '.join(SUPPORTED)}")
    partial = scaling.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if partial not in (None, 1, 1.0):
        raise UnsupportedError(f"partial_rotary_factor {partial} is not supported; only whole heads are rotated")
    base = _number(scaling, "rope_theta", config.get("rope_theta") or theta)
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    table: NDArray[np.float32] = np.float32(1.0) / np.power(base, exponents.astype(np.float64)).astype(np.float32)
    if kind == "linear":
        stretched: NDArray[np.float32] = table / np.float32(_number(scaling, "factor"))
        return stretched
    if kind == "llama3":
        return _llama3(table, scaling, config, context)
    return table


def _llama3(
    table: NDArray[np.float32], scaling: dict[str, Any], config: dict[str, Any], context: int
) -> NDArray[np.float32]:
    """Long waves are stretched by `factor`, short ones kept, those between blended (Llama 3.1)."""
    factor = np.float32(_number(scaling, "factor"))
    low, high = _number(scaling, "low_freq_factor"), _number(scaling, "high_freq_factor")
    key = "original_max_position_embeddings"
    original = _number(scaling if config.get(key) is None else config, key, context)
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
