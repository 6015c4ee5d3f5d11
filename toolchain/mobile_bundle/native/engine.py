"""Models and sessions of the engine: what feeds tokens and gives logits."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import ArgumentError
from mobile_bundle.native.library import check, declared

_MOST_COUNT = (1 << 32) - 1
KV_TYPES = {"int8": 0, "f16": 1, "int4": 2, "k8v4": 3}
"""Types of the KV cache by their name on the command line (mb_kv_type)."""


MAPPINGS = {"whole": 0, "layers": 1}
"""How weights are mapped, by the name on the command line (mb_mapping)."""


class ModelConfig(ctypes.Structure):
    """mb_model_config (weights_index.h)."""

    _fields_ = [
        *((name, ctypes.c_uint32) for name in (
            "flags", "vocabulary", "hidden", "layers", "heads", "kv_heads", "head_dim", "feed_forward", "context",
            "sliding_window", "activation",
        )),
        ("norm_epsilon", ctypes.c_float),
        ("bos_token", ctypes.c_int32),
        ("eos_count", ctypes.c_uint32),
        ("eos_tokens", ctypes.c_int32 * 8),
        ("default_context", ctypes.c_uint32),
        ("name", ctypes.c_char * 64),
        *((name, ctypes.c_float) for name in ("embedding_scale", "residual_scale", "query_scale", "rotary_scale")),
        ("rotary_dim", ctypes.c_uint32),
        ("full_layers", ctypes.c_uint8 * 16),
        ("unrotated_layers", ctypes.c_uint8 * 16),
        ("convolution_layers", ctypes.c_uint8 * 16),
        ("convolution_taps", ctypes.c_uint32),
        ("score_cap", ctypes.c_float),
        ("logit_cap", ctypes.c_float),
        ("reserved", ctypes.c_uint8 * 20),
    ]  # fmt: skip


class ModelOptions(ctypes.Structure):
    """mb_model_options."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("kernels", ctypes.c_char_p),
        ("cache_dir", ctypes.c_char_p),
        ("mapping", ctypes.c_int),
        ("progress", ctypes.c_void_p),
        ("progress_context", ctypes.c_void_p),
    ]


class SessionOptions(ctypes.Structure):
    """mb_session_options."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("context", ctypes.c_uint32),
        ("threads", ctypes.c_uint32),
        ("prefill_chunk", ctypes.c_uint32),
        ("kv_type", ctypes.c_int),
        ("all_logits", ctypes.c_bool),
        ("unchecked", ctypes.c_bool),
        ("lookahead", ctypes.c_uint32),
    ]


class _Memory(ctypes.Structure):
    _fields_ = [
        ("file_bytes", ctypes.c_uint64),
        ("touched_file_bytes", ctypes.c_uint64),
        ("resident_file_bytes", ctypes.c_uint64),
        ("kv_bytes_per_token", ctypes.c_uint64),
        ("kv_bytes", ctypes.c_uint64),
        ("scratch_bytes", ctypes.c_uint64),
        ("process_bytes", ctypes.c_uint64),
    ]


@dataclass(frozen=True)
class Memory:
    """Bytes that a session uses (mb_memory in mobile_bundle.h says what each counts)."""

    file_bytes: int
    touched_file_bytes: int
    resident_file_bytes: int
    kv_bytes_per_token: int
    kv_bytes: int
    scratch_bytes: int
    process_bytes: int

    @property
    def anon_bytes(self) -> int:
        """Anonymous bytes when the whole context is in use."""
        return self.kv_bytes + self.scratch_bytes


def _memory(memory: _Memory) -> Memory:
    return Memory(*(int(getattr(memory, name)) for name, _ in memory._fields_))  # type: ignore[misc]


@functools.cache
def engine_library() -> ctypes.CDLL:
    """The library with the types of the functions of models and sessions. UserError as library()'s."""
    pointer, u32, size, text = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_size_t, ctypes.c_char_p
    floats, tokens = ctypes.POINTER(ctypes.POINTER(ctypes.c_float)), ctypes.POINTER(ctypes.c_int32)
    out, memory, options = ctypes.POINTER(pointer), ctypes.POINTER(_Memory), ctypes.POINTER(SessionOptions)
    return declared({
        "mb_model_open": [text, ctypes.POINTER(ModelOptions), out],
        "mb_model_close": [pointer],
        "mb_model_kernels": [pointer],
        "mb_model_get_config": [pointer],
        "mb_model_verify": [pointer],
        "mb_memory_estimate": [pointer, options, memory],
        "mb_session_open": [pointer, options, out],
        "mb_session_close": [pointer],
        "mb_session_memory": [pointer, memory],
        "mb_session_get_options": [pointer],
        "mb_session_position": [pointer],
        "mb_session_rewind": [pointer, u32],
        "mb_session_rewind_point": [pointer, u32],
        "mb_session_remove": [pointer, u32, u32],
        "mb_session_can_remove": [pointer],
        "mb_session_feed": [pointer, tokens, size, floats],
        "mb_session_feed_all": [pointer, tokens, size, floats],
        "mb_session_check": [pointer, tokens, size],
        "mb_session_state_bytes": [pointer, u32, ctypes.POINTER(ctypes.c_uint64)],
        "mb_session_save": [pointer, tokens, text],
        "mb_session_resume": [pointer, text, tokens, ctypes.POINTER(u32)],
    }, {
        "mb_model_close": None,
        "mb_model_kernels": text,
        "mb_model_get_config": ctypes.POINTER(ModelConfig),
        "mb_session_close": None,
        "mb_session_get_options": options,
        "mb_session_position": u32,
        "mb_session_rewind_point": u32,
    })  # fmt: skip


def _session_options(context: int, threads: int, chunk: int, kv_type: str, all_logits: bool) -> SessionOptions:
    for name, value in (("context", context), ("threads", threads)):
        if not 0 <= value <= _MOST_COUNT:  # the C fields would take it modulo 2 ** 32
            raise ArgumentError(f"`{name}` {value}: must be from 0 to {_MOST_COUNT}")
    return SessionOptions(
        size=ctypes.sizeof(SessionOptions),
        context=context,
        threads=threads,
        prefill_chunk=chunk,
        kv_type=KV_TYPES[kv_type],
        all_logits=all_logits,
    )


def estimate_memory(config: bytes, context: int = 0, threads: int = 0, kv_type: str = "int8") -> Memory:
    """What a session will use, from the 256 bytes of mb_model_config alone (its file bytes are then 0).

    Raises UserError for a context that the model does not have."""
    memory = _Memory()
    options = _session_options(context, threads, 0, kv_type, False)
    buffer = ctypes.create_string_buffer(config, len(config))
    check(engine_library().mb_memory_estimate(buffer, ctypes.byref(options), ctypes.byref(memory)))
    return _memory(memory)


class Session:
    """Feeds tokens and gives logits; made by Model.session."""

    def __init__(self, handle: ctypes.c_void_p, vocabulary: int) -> None:
        self._handle = handle
        self._vocabulary = vocabulary

    def feed(self, tokens: Sequence[int] | NDArray[np.int32]) -> NDArray[np.float32]:
        """Logits float32 (vocabulary,) of the last token. Raises UserError when the tokens do not fit."""
        logits: NDArray[np.float32] = self._feed(engine_library().mb_session_feed, tokens, 1)[0]
        return logits

    def feed_all(self, tokens: Sequence[int] | NDArray[np.int32]) -> NDArray[np.float32]:
        """Logits float32 (tokens, vocabulary) of at most prefill_chunk tokens, valid until the next call."""
        return self._feed(engine_library().mb_session_feed_all, tokens, len(tokens))

    def check(self, tokens: Sequence[int] | NDArray[np.int32]) -> None:
        """Feeds tokens and looks at the result of every step. UserError names the tensor that the first value that is
        not finite comes from."""
        array = np.ascontiguousarray(tokens, np.int32)
        pointer = array.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        check(engine_library().mb_session_check(self._handle, pointer, len(array)))

    def _feed(
        self, function: ctypes._NamedFuncPointer, tokens: Sequence[int] | NDArray[np.int32], rows: int
    ) -> NDArray[np.float32]:
        array = np.ascontiguousarray(tokens, np.int32)
        logits = ctypes.POINTER(ctypes.c_float)()
        pointer = array.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        check(function(self._handle, pointer, len(array), ctypes.byref(logits)))
        return np.ctypeslib.as_array(logits, (rows, self._vocabulary))

    def rewind_point(self, position: int) -> int:
        """Where a session that should be rewound to `position` can be: there, or at 0 where layers with a sliding
        window have let go of what the next token would look at."""
        return int(engine_library().mb_session_rewind_point(self._handle, position))

    def rewind(self, position: int = 0) -> None:
        """Forgets everything after the first `position` tokens. UserError where that is not possible."""
        check(engine_library().mb_session_rewind(self._handle, position))

    def remove(self, first: int, end: int) -> None:
        """Takes the tokens first..end-1 out of what the session holds: those behind them move to their places, which is
        not what reading them again would give. UserError where the session does not hold them, and for models with
        sliding windows, convolutions or norms behind the rotation."""
        check(engine_library().mb_session_remove(self._handle, first, end))

    def state_bytes(self, positions: int) -> int:
        """Bytes of the file that `save` will write when the session holds so many tokens."""
        size = ctypes.c_uint64()
        check(engine_library().mb_session_state_bytes(self._handle, positions, ctypes.byref(size)))
        return size.value

    def save(self, tokens: Sequence[int] | NDArray[np.int32], path: Path) -> None:
        """Writes what the session holds to a file, whole or not at all. tokens: int32 (position,), those it was fed.
        UserError where the file cannot be written."""
        array = np.ascontiguousarray(tokens, np.int32)
        if array.shape != (self.position,):
            raise ArgumentError(f"{len(array)} tokens: the session holds {self.position}")
        pointer = array.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        check(engine_library().mb_session_save(self._handle, pointer, os.fsencode(path)))

    def resume(self, path: Path) -> list[int]:
        """Takes up a saved state in place of what the session holds; its tokens. UserError for a file that is damaged
        or of another model, type of KV cache or layout; the session then holds what it held."""
        tokens, count = (ctypes.c_int32 * self.context)(), ctypes.c_uint32()
        check(engine_library().mb_session_resume(self._handle, os.fsencode(path), tokens, ctypes.byref(count)))
        return tokens[: count.value]

    @property
    def context(self) -> int:
        """Tokens that the session can hold."""
        return int(engine_library().mb_session_get_options(self._handle).contents.context)

    @property
    def position(self) -> int:
        """Tokens that the session holds."""
        return int(engine_library().mb_session_position(self._handle))

    def memory(self) -> Memory:
        """What this session uses when its whole context is filled."""
        memory = _Memory()
        check(engine_library().mb_session_memory(self._handle, ctypes.byref(memory)))
        return _memory(memory)


class Model:
    """An open bundle, or a weights.ptd file. Raises UserError when it is damaged.

    cache: the folder that holds the cache of stored tensors (None: beside the weights). A bundle with stored tensors
    and no cache that fits is installed first. mapping: "whole", or "layers" for a model larger than memory."""

    def __init__(
        self, path: Path, kernels: str | None = None, cache: Path | None = None, mapping: str = "whole"
    ) -> None:
        self._handle = ctypes.c_void_p()
        options = ModelOptions(
            size=ctypes.sizeof(ModelOptions),
            kernels=kernels.encode() if kernels else None,
            cache_dir=os.fsencode(cache) if cache else None,
            mapping=MAPPINGS[mapping],
        )
        check(engine_library().mb_model_open(os.fsencode(path), ctypes.byref(options), ctypes.byref(self._handle)))
        config = engine_library().mb_model_get_config(self._handle).contents
        self.vocabulary = int(config.vocabulary)
        self.context = int(config.context)
        self.bos = int(config.bos_token) if config.bos_token >= 0 else None
        self.end_tokens = frozenset(config.eos_tokens[: config.eos_count])

    def close(self) -> None:
        """Unmaps the weights; sessions must be closed before."""
        engine_library().mb_model_close(self._handle)
        self._handle = ctypes.c_void_p()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def kernels(self) -> str:
        """Name of the kernel table in use."""
        name: bytes = engine_library().mb_model_kernels(self._handle)
        return name.decode()

    def verify(self) -> None:
        """Reads every blob; UserError names the first whose checksum is wrong."""
        check(engine_library().mb_model_verify(self._handle))

    @contextmanager
    def session(
        self,
        context: int = 0,
        threads: int = 0,
        prefill_chunk: int = 0,
        kv_type: str = "int8",
        all_logits: bool = False,
    ) -> Iterator[Session]:
        """A session; zeros mean the engine's defaults (mb_session_options)."""
        handle = ctypes.c_void_p()
        options = _session_options(context, threads, prefill_chunk, kv_type, all_logits)
        check(engine_library().mb_session_open(self._handle, ctypes.byref(options), ctypes.byref(handle)))
        try:
            yield Session(handle, self.vocabulary)
        finally:
            engine_library().mb_session_close(handle)
