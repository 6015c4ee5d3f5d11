"""The C runtime, loaded into Python by ctypes: what `eval`, `estimate`, the builder and the tests call.

The library is the very engine that runs on a phone; Python adds nothing to its arithmetic.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import UserError

ABIS = ("arm64-v8a", "armeabi-v7a", "x86_64")
"""Android ABIs that a bundle carries a runner for."""

KV_TYPES = {"int8": 0, "f16": 1}
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
        ("reserved", ctypes.c_uint8 * 100),
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


def package_file(*parts: str) -> Path:
    """A file that the build put into the installed package, e.g. ("lib", "libmobile_bundle.so").

    Raises UserError when the package was not built with its C runtime."""
    import mobile_bundle

    for directory in mobile_bundle.__path__:
        path = Path(directory, *parts)
        if path.exists():
            return path
    raise UserError(f"{'/'.join(parts)} is not in the installed package: install it with `pip install .`")


def library_path() -> Path:
    """The shared library. MOBILE_BUNDLE_LIBRARY names another one (a sanitizer build, for instance)."""
    override = os.environ.get("MOBILE_BUNDLE_LIBRARY")
    return Path(override) if override else package_file("lib", "libmobile_bundle.so")


def runner_paths() -> dict[str, Path]:
    """mobile-run of every ABI."""
    return {abi: package_file("bin", abi, "mobile-run") for abi in ABIS}


def machine_abi() -> str:
    """The Android ABI whose programs this machine runs. Raises UserError when there is none."""
    abi = {"x86_64": "x86_64", "aarch64": "arm64-v8a", "arm64": "arm64-v8a"}.get(os.uname().machine)
    if os.uname().sysname != "Linux" or abi is None:
        raise UserError(f"there is no mobile-run for {os.uname().sysname} on {os.uname().machine}")
    return abi


def bundle_runner(bundle: Path) -> Path:
    """The bundle's own mobile-run that this machine can run. Raises UserError when there is none."""
    abi = machine_abi()
    runner = bundle / "bin" / abi / "mobile-run"
    if not runner.exists():
        raise UserError(
            f"{bundle}: no bin/{abi}/mobile-run in it: not a bundle, not a whole one, or built without native"
        )
    return runner


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library with argument types set. Raises UserError when it is missing or cannot be loaded."""
    path = library_path()
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be loaded ({error}): install the package again") from error
    pointer, u32, size = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_size_t
    floats = ctypes.POINTER(ctypes.POINTER(ctypes.c_float))
    tokens = ctypes.POINTER(ctypes.c_int32)
    out = ctypes.POINTER(pointer)
    signatures: dict[str, tuple[object, list[object]]] = {
        "mb_version": (ctypes.c_char_p, []),
        "mb_error_message": (ctypes.c_char_p, []),
        "mb_model_open": (ctypes.c_int, [ctypes.c_char_p, ctypes.POINTER(ModelOptions), out]),
        "mb_model_close": (None, [pointer]),
        "mb_model_kernels": (ctypes.c_char_p, [pointer]),
        "mb_model_get_config": (ctypes.POINTER(ModelConfig), [pointer]),
        "mb_model_verify": (ctypes.c_int, [pointer]),
        "mb_memory_estimate": (ctypes.c_int, [pointer, ctypes.POINTER(SessionOptions), ctypes.POINTER(_Memory)]),
        "mb_session_open": (ctypes.c_int, [pointer, ctypes.POINTER(SessionOptions), out]),
        "mb_session_close": (None, [pointer]),
        "mb_session_memory": (ctypes.c_int, [pointer, ctypes.POINTER(_Memory)]),
        "mb_session_position": (u32, [pointer]),
        "mb_session_rewind": (ctypes.c_int, [pointer, u32]),
        "mb_session_feed": (ctypes.c_int, [pointer, tokens, size, floats]),
        "mb_session_feed_all": (ctypes.c_int, [pointer, tokens, size, floats]),
        "mb_session_check": (ctypes.c_int, [pointer, tokens, size]),
        "mb_tokenizer_open": (ctypes.c_int, [ctypes.c_char_p, out]),
        "mb_tokenizer_close": (None, [pointer]),
        "mb_tokenizer_encode": (
            ctypes.c_int,
            [pointer, ctypes.c_char_p, size, ctypes.c_bool, tokens, size, ctypes.POINTER(size)],
        ),
        "mb_tokenizer_decode": (
            ctypes.c_int,
            [pointer, tokens, size, ctypes.c_bool, ctypes.c_char_p, size, ctypes.POINTER(size)],
        ),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    return lib


def declared(signatures: Mapping[str, list[Any]]) -> ctypes.CDLL:
    """library() with the argument types of more of its functions, all of which return a status for `check`."""
    lib = library()
    for name, arguments in signatures.items():
        function = getattr(lib, name)
        function.restype = ctypes.c_int
        function.argtypes = arguments
    return lib


def check(status: int) -> None:
    """UserError with the library's own message, unless the status of one of its functions is 0."""
    if status:
        raise UserError((library().mb_error_message() or b"").decode("utf-8", "replace"))


def _session_options(context: int, threads: int, chunk: int, kv_type: str, all_logits: bool) -> SessionOptions:
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
    check(library().mb_memory_estimate(buffer, ctypes.byref(options), ctypes.byref(memory)))
    return _memory(memory)


class Tokenizer:
    """tokenizer.bin. Raises UserError when it is damaged."""

    def __init__(self, path: Path) -> None:
        self._handle = ctypes.c_void_p()
        check(library().mb_tokenizer_open(os.fsencode(path), ctypes.byref(self._handle)))

    def close(self) -> None:
        """Unmaps the file."""
        library().mb_tokenizer_close(self._handle)
        self._handle = ctypes.c_void_p()

    def encode(self, text: str | bytes, special: bool = False) -> NDArray[np.int32]:
        """Ids of a text (invalid UTF-8 counts as U+FFFD); `special`: with the tokenizer's own BOS template."""
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        count = ctypes.c_size_t()
        ids = np.empty(len(data) + 16, np.int32)
        pointer = ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        check(
            library().mb_tokenizer_encode(
                self._handle, data, len(data), special, pointer, len(ids), ctypes.byref(count)
            )
        )
        if count.value > len(ids):
            raise UserError("the tokenizer gave more tokens than the text has bytes")
        return ids[: count.value]

    def decode(self, ids: Sequence[int] | NDArray[np.int32], skip_special: bool = False) -> str:
        """Text of ids, as Hugging Face's decode gives it."""
        array = np.ascontiguousarray(ids, np.int32)
        pointer = array.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        count, capacity = ctypes.c_size_t(), 64 + 16 * len(array)
        while True:
            text = ctypes.create_string_buffer(capacity)
            check(
                library().mb_tokenizer_decode(
                    self._handle, pointer, len(array), skip_special, text, capacity, ctypes.byref(count)
                )
            )
            if count.value <= capacity:
                return text.raw[: count.value].decode("utf-8", "replace")
            capacity = count.value


class Session:
    """Feeds tokens and gives logits; made by Model.session."""

    def __init__(self, handle: ctypes.c_void_p, vocabulary: int) -> None:
        self._handle = handle
        self._vocabulary = vocabulary

    def feed(self, tokens: Sequence[int] | NDArray[np.int32]) -> NDArray[np.float32]:
        """Logits float32 (vocabulary,) of the last token. Raises UserError when the tokens do not fit."""
        logits: NDArray[np.float32] = self._feed(library().mb_session_feed, tokens, 1)[0]
        return logits

    def feed_all(self, tokens: Sequence[int] | NDArray[np.int32]) -> NDArray[np.float32]:
        """Logits float32 (tokens, vocabulary) of at most prefill_chunk tokens, valid until the next call."""
        return self._feed(library().mb_session_feed_all, tokens, len(tokens))

    def check(self, tokens: Sequence[int] | NDArray[np.int32]) -> None:
        """Feeds tokens and looks at the result of every step. UserError names the tensor that the first value that is
        not finite comes from."""
        array = np.ascontiguousarray(tokens, np.int32)
        pointer = array.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        check(library().mb_session_check(self._handle, pointer, len(array)))

    def _feed(
        self, function: ctypes._NamedFuncPointer, tokens: Sequence[int] | NDArray[np.int32], rows: int
    ) -> NDArray[np.float32]:
        array = np.ascontiguousarray(tokens, np.int32)
        logits = ctypes.POINTER(ctypes.c_float)()
        pointer = array.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        check(function(self._handle, pointer, len(array), ctypes.byref(logits)))
        return np.ctypeslib.as_array(logits, (rows, self._vocabulary))

    def rewind(self, position: int = 0) -> None:
        """Forgets everything after the first `position` tokens."""
        check(library().mb_session_rewind(self._handle, position))

    @property
    def position(self) -> int:
        """Tokens that the session holds."""
        return int(library().mb_session_position(self._handle))

    def memory(self) -> Memory:
        """What this session uses when its whole context is filled."""
        memory = _Memory()
        check(library().mb_session_memory(self._handle, ctypes.byref(memory)))
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
        check(library().mb_model_open(os.fsencode(path), ctypes.byref(options), ctypes.byref(self._handle)))
        config = library().mb_model_get_config(self._handle).contents
        self.vocabulary = int(config.vocabulary)
        self.context = int(config.context)

    def close(self) -> None:
        """Unmaps the weights; sessions must be closed before."""
        library().mb_model_close(self._handle)
        self._handle = ctypes.c_void_p()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def kernels(self) -> str:
        """Name of the kernel table in use."""
        name: bytes = library().mb_model_kernels(self._handle)
        return name.decode()

    def verify(self) -> None:
        """Reads every blob; UserError names the first whose checksum is wrong."""
        check(library().mb_model_verify(self._handle))

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
        check(library().mb_session_open(self._handle, ctypes.byref(options), ctypes.byref(handle)))
        try:
            yield Session(handle, self.vocabulary)
        finally:
            library().mb_session_close(handle)
