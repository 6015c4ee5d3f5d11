"""The runtime's sampler: from logits to the next token."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import ArgumentError
from mobile_bundle.native.library import check, declared

_MOST_SEED = (1 << 64) - 1
_MOST_COUNT = (1 << 32) - 1


class SamplerOptions(ctypes.Structure):
    """mb_sampler_options."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("temperature", ctypes.c_float),
        ("top_k", ctypes.c_uint32),
        ("top_p", ctypes.c_float),
        ("min_p", ctypes.c_float),
        ("repetition_penalty", ctypes.c_float),
        ("repetition_window", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
    ]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. temperature 0: the best one always (greedy). top_k 0, top_p 1, min_p 0 and
    repetition_penalty 1: switched off. repetition_window: last tokens, the prompt's too, that count as repeated. seed:
    the same seed gives the same tokens. ArgumentError for a count that is negative or too large; Sampler refuses the
    other values that cannot be."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name, most in (("top_k", _MOST_COUNT), ("repetition_window", _MOST_COUNT), ("seed", _MOST_SEED)):
            if not isinstance(getattr(self, name), int) or not 0 <= getattr(self, name) <= most:
                raise ArgumentError(f"{name} {getattr(self, name)} is not a whole number from 0 to {most}")
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            if not isinstance(getattr(self, name), (int, float)):
                raise ArgumentError(f"{name} {getattr(self, name)!r} is not a number")


@functools.cache
def _library() -> ctypes.CDLL:
    pointer = ctypes.c_void_p
    return declared({
        "mb_sampler_open": [ctypes.c_uint32, ctypes.POINTER(SamplerOptions), ctypes.POINTER(pointer)],
        "mb_sampler_close": [pointer],
        "mb_sampler_accept": [pointer, ctypes.c_int32],
        "mb_sampler_sample_among": [
            pointer, ctypes.POINTER(ctypes.c_float), ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_int32)
        ],
    }, {"mb_sampler_close": None, "mb_sampler_accept": None})  # fmt: skip


class Sampler:
    """Chooses the tokens of one text: a context manager. ArgumentError for invalid values of `sampling`."""

    def __init__(self, vocabulary: int, sampling: Sampling) -> None:
        self._handle = ctypes.c_void_p()
        self._vocabulary = vocabulary
        options = SamplerOptions(size=ctypes.sizeof(SamplerOptions), **asdict(sampling))
        check(_library().mb_sampler_open(vocabulary, ctypes.byref(options), ctypes.byref(self._handle)))

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *_: object) -> None:
        _library().mb_sampler_close(self._handle)
        self._handle = ctypes.c_void_p()

    def accept(self, tokens: Iterable[int]) -> None:
        """Tokens of the text so far, for the repetition penalty."""
        for token in tokens:
            _library().mb_sampler_accept(self._handle, token)

    def sample(self, logits: NDArray[np.float32], allowed: NDArray[np.uint32] | None = None) -> int:
        """The next token. logits: float32 (vocabulary,); allowed: bits as Constraint.allowed's (None: all tokens).
        NotFinite where a logit is infinite or NaN."""
        logits = np.ascontiguousarray(logits, np.float32)
        if logits.shape != (self._vocabulary,):
            raise ArgumentError(f"logits have the shape {logits.shape}, expected ({self._vocabulary},)")
        token = ctypes.c_int32()
        pointer = logits.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        bits = None if allowed is None else allowed.ctypes.data_as(ctypes.POINTER(ctypes.c_uint32))
        check(_library().mb_sampler_sample_among(self._handle, pointer, bits, ctypes.byref(token)))
        return token.value
