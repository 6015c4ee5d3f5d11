"""The C library's interface: headers that compile together, versions, and structs of options of any age."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import mobile_bundle
import pytest
from mobile_bundle.models import open_model
from mobile_bundle.native.engine import Model, ModelOptions, SessionOptions
from mobile_bundle.native.engine import engine_library as library
from support.paths import ROOT

RUNTIME = ROOT / "runtime"
PUBLIC = sorted(RUNTIME.glob("include/mobile_bundle/*.h"))
ARGUMENT = 1


def compile_sources(directory: Path, sources: dict[str, list[Path]], *command: str) -> None:
    """Compiles files of that name, each of which includes these headers and nothing else."""
    for name, headers in sources.items():
        lines = [f'#include "{header}"\n' for header in headers]
        (directory / name).write_text("".join(lines) + "int main(void) { return 0; }\n")
    process = subprocess.run(
        [*command, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{RUNTIME}", f"-I{RUNTIME / 'include'}",
         *(directory / name for name in sources)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr


def own_headers() -> list[Path]:
    """The headers of the layers but for fragments, those of one instruction set and those of other runtimes."""
    layers = [path for path in RUNTIME.iterdir() if path.name not in ("include", "cmake", "executorch", "onnxruntime")]
    headers = [header for layer in layers for header in sorted(layer.glob("*.h"))]
    special = ("unicode_tables.h", "avx2_common.h", "avx512_common.h", "neon_common.h")
    return [path for path in headers if path.name not in special and not path.name.endswith("-impl.h")]


def test_the_headers_compile_together(tmp_path):
    """In C and C++ the public ones; in C with every header of the engine behind them."""
    assert len(PUBLIC) > 5
    compile_sources(tmp_path, {"c.c": PUBLIC}, "cc", "-std=c11")
    compile_sources(tmp_path, {"cpp.cpp": PUBLIC}, "c++", "-std=c++17")
    engine = [path for path in own_headers() if path.parent.name in ("base", "packed", "kernels", "storage", "engine")]
    assert len(engine) > 40
    compile_sources(tmp_path, {"all.c": [*PUBLIC, *engine]}, "cc", "-std=c11", "-D_GNU_SOURCE")


def test_each_header_includes_what_it_needs(tmp_path):
    headers = own_headers()
    assert len(headers) > 70
    sources = {f"{header.parent.name}_{header.stem}.c": [header] for header in headers}
    compile_sources(tmp_path, sources, "cc", "-std=c11", "-D_GNU_SOURCE")


def test_nothing_is_newer_than_the_oldest_android():
    """aligned_alloc came with Android's API level 28; the presets ask for 26."""
    sources = [path for folder in RUNTIME.iterdir() if folder.is_dir() for path in folder.rglob("*.[ch]*")]
    assert len(sources) > 100
    assert not [path for path in sources if "aligned_alloc(" in path.read_text(errors="replace")]


def test_the_library_tells_its_version():
    assert library().mb_version().decode() == mobile_bundle.__version__


def test_the_config_is_read_by_name(bundle):
    with open_model(ROOT / "examples/models/wiki-6m") as checkpoint, Model(bundle("affine-4bit")) as model:
        spec, config = checkpoint.spec, library().mb_model_get_config(model._handle).contents
        for name in ("vocabulary", "hidden", "layers", "heads", "kv_heads", "head_dim", "feed_forward", "context"):
            assert getattr(config, name) == getattr(spec, name)
        assert config.norm_epsilon == pytest.approx(spec.norm_epsilon)
        assert config.default_context == spec.default_context
        assert (model.vocabulary, model.context) == (spec.vocabulary, spec.context)
        assert config.name.decode() == spec.name
        assert bytes(config.reserved) == bytes(20)
        for name in (
            "embedding_scale",
            "residual_scale",
            "query_scale",
            "rotary_scale",
            "rotary_dim",
            "convolution_taps",
            "score_cap",
            "logit_cap",
        ):
            assert getattr(config, name) == 0  # what a plain Llama has, as before these fields
        for name in ("full_layers", "unrotated_layers", "convolution_layers"):
            assert bytes(getattr(config, name)) == bytes(16)


class LongerOptions(ctypes.Structure):
    """mb_session_options of a version to come."""

    _fields_ = (*SessionOptions._fields_, ("to_come", ctypes.c_uint64))


def open_session(model: Model, options: ctypes.Structure) -> tuple[int, int]:
    """(status, the context of the session)"""
    handle = ctypes.c_void_p()
    status = library().mb_session_open(
        model._handle, ctypes.cast(ctypes.byref(options), ctypes.POINTER(SessionOptions)), ctypes.byref(handle)
    )
    context = 0
    if status == 0:
        function = library().mb_session_get_options
        function.restype, function.argtypes = ctypes.POINTER(SessionOptions), [ctypes.c_void_p]
        own = function(handle).contents
        assert own.size == ctypes.sizeof(SessionOptions)
        context = own.context
        library().mb_session_close(handle)
    return status, context


def test_options_of_an_older_and_a_newer_header_work(bundle):
    with Model(bundle("affine-4bit")) as model:
        whole = SessionOptions(size=ctypes.sizeof(SessionOptions), context=32, threads=1)
        assert open_session(model, whole) == (0, 32)
        # an older one ends earlier: what it does not have counts as 0
        older = SessionOptions(size=SessionOptions.threads.offset, context=32, threads=10_000)
        assert open_session(model, older) == (0, 32)
        newer = LongerOptions(size=ctypes.sizeof(LongerOptions), context=32, threads=1)
        assert open_session(model, newer) == (0, 32)
        newer.to_come = 1
        assert open_session(model, newer) == (ARGUMENT, 0)
        assert b"does not have" in library().mb_error_message()
        for size in (0, 3, 1 << 20):
            whole.size = size
            assert open_session(model, whole) == (ARGUMENT, 0)
            assert b"sizeof(mb_session_options)" in library().mb_error_message()


def test_kernels_that_are_not_there_are_a_wrong_argument(bundle):
    options = ModelOptions(size=ctypes.sizeof(ModelOptions), kernels=b"sparc")
    handle = ctypes.c_void_p()
    path = str(bundle("affine-4bit")).encode()
    assert library().mb_model_open(path, ctypes.byref(options), ctypes.byref(handle)) == ARGUMENT
    assert b"no sparc kernels" in library().mb_error_message()
