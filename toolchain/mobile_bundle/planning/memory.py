"""Predicted memory of a running bundle. The session's part comes from the engine's own arithmetic
(mb_memory_estimate), the very code that lays out the memory, so that the two cannot drift apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from mobile_bundle.codecs.blob import BlobHeader
from mobile_bundle.codecs.declaration import rules_of
from mobile_bundle.codecs.installed import cache_bytes, installed_header, is_stored
from mobile_bundle.models.spec import ModelConfig
from mobile_bundle.native.engine import estimate_memory

_DEVICE_CLASSES = (1, 2, 3, 4, 6, 8, 12, 16, 24)
"""RAM of phones, GB."""


@dataclass(frozen=True)
class PredictedMemory:
    """Bytes of a mobile-run process whose context is full.

    file_bytes: clean pages of weights and tokenizer, which the kernel may drop and read again. anon_bytes: KV cache and
    scratch, which it can only swap; a longer context takes kv_bytes_per_token more for each position. peak_bytes: the
    highest resident set (VmHWM), the program itself included. form_bytes: what answers in a given form (`json_schema`,
    `regex`) take besides, at most; None: not known without the tokenizer, or of an older bundle."""

    context: int
    file_bytes: int
    anon_bytes: int
    kv_bytes_per_token: int
    peak_bytes: int
    form_bytes: int | None = None

    @property
    def min_device_ram_gb(self) -> int:
        """The smallest phone whose free half holds the peak: Android and its services take about the other half."""
        return next((gb for gb in _DEVICE_CLASSES if self.peak_bytes <= gb * 10**9 // 2), _DEVICE_CLASSES[-1])


def predict_memory(
    config: bytes,
    weights_bytes: int,
    tokenizer_bytes: int,
    context: int = 0,
    kv_type: str = "int8",
    form_bytes: int | None = None,
) -> PredictedMemory:
    """config: the 256 bytes of mb_model_config. weights_bytes: those that generating text reads, MappedWeights.touched
    (of a separate input embedding only the rows of the text are) or .layered. context 0: the model's default."""
    memory = estimate_memory(config, context, threads=2, kv_type=kv_type)
    tokens = context or ModelConfig.parse(config).default_context
    files = weights_bytes + tokenizer_bytes
    peak = files + memory.anon_bytes + memory.process_bytes
    return PredictedMemory(tokens, files, memory.anon_bytes, memory.kv_bytes_per_token, peak, form_bytes)


_MATRICES = frozenset(f"attention.{part}" for part in ("query", "key", "value", "output")) | {
    "conv.input",
    "conv.output",
    "mlp.gate",
    "mlp.up",
    "mlp.down",
}
_SHARE_ROWS = 64
"""The output head is mapped in shares of a multiple of this many rows."""


@dataclass(frozen=True)
class MappedWeights:
    """Bytes of a bundle's weights, installed, by the engine's own rules (mb_memory).

    touched: what generating text reads. layered: what of it is in memory at once with `--mapping layers`."""

    touched: int
    layered: int


def mapped_weights(
    tensors: Mapping[str, BlobHeader], file_bytes: int, inner: Mapping[str, BlobHeader] | None = None
) -> MappedWeights:
    """tensors: every tensor of weights.ptd by its name, in the order of the file; file_bytes: the file's size. inner:
    for each entropy-coded tensor the header of the blob that was coded. BlobError if one of those is missing."""
    packed = {name: installed_header(header, (inner or {}).get(name)) for name, header in tensors.items()}
    stored = [name for name, header in tensors.items() if is_stored(header)]
    touched = file_bytes - sum(tensors[name].blob_bytes for name in stored)
    touched += cache_bytes((name, packed[name].blob_bytes) for name in stored)
    tied = "output.weight" not in packed
    if not tied:
        touched -= packed["embedding.weight"].blob_bytes
    layers: dict[str, int] = defaultdict(int)
    for name, header in packed.items():
        kind, _, rest = name.partition(".")
        number, _, matrix = rest.partition(".")
        if kind == "layers" and matrix.removesuffix(".weight") in _MATRICES:
            layers[number] += header.payload_bytes
    largest = max(layers.values(), default=0)
    head = packed["embedding.weight" if tied else "output.weight"]
    most = max(largest, _head_share(head, largest))
    layered = touched - sum(layers.values()) - head.payload_bytes + 2 * most
    return MappedWeights(touched, min(touched, layered))


def _head_share(head: BlobHeader, largest_layer: int) -> int:
    """Bytes of the rows of the output head that are mapped at a time: as large as a layer, where rows lie together."""
    if not rules_of(head.format).rows_apart:
        return head.payload_bytes
    rows = max(largest_layer * head.rows // head.payload_bytes // _SHARE_ROWS * _SHARE_ROWS, _SHARE_ROWS)
    return head.payload_bytes if rows >= head.rows else head.payload_bytes // head.rows * rows
