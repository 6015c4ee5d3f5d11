"""The operator library for ONNX Runtime and mobile-run-onnx: the installed package's, or built here."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from mobile_bundle.native.library import package_file
from mobile_bundle.native.programs import machine_abi
from mobile_bundle.runtimes import onnxruntime_library
from support.paths import ROOT


@functools.cache
def headers() -> Path:
    """ONNX Runtime's C headers."""
    directory = ROOT / "build/onnxruntime"
    process = subprocess.run([ROOT / "scripts/onnxruntime_headers.sh", directory], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return directory


def onnx_library() -> Path:
    """libmobile_bundle_onnx.so."""
    return package_file("lib", "libmobile_bundle_onnx.so")


def onnx_runner() -> Path:
    """mobile-run-onnx, its operator library where it looks for it."""
    return package_file("bin", machine_abi(), "mobile-run-onnx")


def runner_environment() -> dict[str, str]:
    """The environment for mobile-run-onnx: where libonnxruntime is."""
    return {**os.environ, "MOBILE_BUNDLE_ONNXRUNTIME": str(onnxruntime_library())}


def open_session(
    model: Path | bytes, threads: int = 2, entries: Mapping[str, object] | None = None
) -> onnxruntime.InferenceSession:
    """A session with our operators; what fails is told by its exception alone. entries: `mobile_bundle.*`, by what
    follows the dot."""
    options = onnxruntime.SessionOptions()
    for name, value in {"threads": threads, **(entries or {})}.items():
        options.add_session_config_entry(f"mobile_bundle.{name}", str(value))
    options.register_custom_ops_library(str(onnx_library()))
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), options)


class Decoder:
    """A model.onnx with its past, as onnxruntime-genai runs it."""

    def __init__(
        self,
        directory: Path,
        shared_buffers: int = 0,
        chunk: int = 1 << 30,
        threads: int = 2,
        session: onnxruntime.InferenceSession | None = None,
        **entries: object,
    ) -> None:
        """shared_buffers: 0: the past grows with every run; else the positions of buffers that are past and present.
        session: one that is open already."""
        self.session = session or open_session(directory / "model.onnx", threads, entries)
        self.chunk = chunk
        self.names = [i.name for i in self.session.get_inputs() if i.name.startswith("past_key_values.")]
        shape = next(i.shape for i in self.session.get_inputs() if i.name == self.names[0])
        size = (1, shape[1], shared_buffers, shape[3])
        self.shared = shared_buffers > 0
        # Each its own array: an OrtValue refers to it, it does not copy.
        self.past = {name: onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(size, np.float32)) for name in self.names}
        self.position = 0

    def feed(self, tokens: list[int]) -> np.ndarray:
        """Logits (vocabulary,) of the last token."""
        for begin in range(0, len(tokens), self.chunk):
            logits = self._run(tokens[begin : begin + self.chunk])
        return logits

    def rewind(self, position: int) -> None:
        """Forgets what is behind."""
        self.position = position
        if not self.shared:
            kept = {name: past.numpy()[:, :, :position].copy() for name, past in self.past.items()}
            self.past = {name: onnxruntime.OrtValue.ortvalue_from_numpy(past) for name, past in kept.items()}

    def _run(self, tokens: list[int]) -> np.ndarray:
        self.position += len(tokens)
        binding: Any = self.session.io_binding()
        binding.bind_cpu_input("input_ids", np.array([tokens], np.int64))
        binding.bind_cpu_input("attention_mask", np.ones((1, self.position), np.int64))
        binding.bind_output("logits")
        for name in self.names:
            binding.bind_ortvalue_input(name, self.past[name])
            present = name.replace("past_key_values", "present")
            if self.shared:
                binding.bind_ortvalue_output(present, self.past[name])
            else:
                binding.bind_output(present)
        self.session.run_with_iobinding(binding)
        outputs = binding.get_outputs()
        if not self.shared:
            self.past = dict(zip(self.names, outputs[1:], strict=True))
        return outputs[0].numpy()[0, 0]
