"""Predicted memory of a running bundle. The session's part comes from the engine's own arithmetic
(mb_memory_estimate), the very code that lays out the memory, so that the two cannot drift apart."""

from __future__ import annotations

from dataclasses import dataclass

from mobile_bundle.native import estimate_memory

_DEVICE_CLASSES = (1, 2, 3, 4, 6, 8, 12, 16, 24)
"""RAM of phones, GB."""


@dataclass(frozen=True)
class PredictedMemory:
    """Bytes of a mobile-run process whose context is full.

    file_bytes: clean pages of weights and tokenizer, which the kernel may drop and read again. anon_bytes: KV cache and
    scratch, which it can only swap. peak_bytes: the highest resident set (VmHWM), the program itself included."""

    context: int
    file_bytes: int
    anon_bytes: int
    kv_bytes_per_token: int
    peak_bytes: int

    @property
    def min_device_ram_gb(self) -> int:
        """The smallest phone whose free half holds the peak: Android and its services take about the other half."""
        return next((gb for gb in _DEVICE_CLASSES if self.peak_bytes <= gb * 10**9 // 2), _DEVICE_CLASSES[-1])


def predict_memory(
    config: bytes, weights_bytes: int, tokenizer_bytes: int, context: int = 0, kv_type: str = "int8"
) -> PredictedMemory:
    """config: the 256 bytes of mb_model_config. weights_bytes: those of weights.ptd that generating text reads (all but
    a separate input embedding, of which only the rows of the text are touched). context 0: the model's default."""
    memory = estimate_memory(config, context, threads=2, kv_type=kv_type)
    tokens = memory.kv_bytes // memory.kv_bytes_per_token
    files = weights_bytes + tokenizer_bytes
    peak = files + memory.anon_bytes + memory.process_bytes
    return PredictedMemory(tokens, files, memory.anon_bytes, memory.kv_bytes_per_token, peak)
