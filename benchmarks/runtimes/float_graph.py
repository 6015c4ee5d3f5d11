"""An ONNX graph under construction: nodes with readable names, and initializers that lie in weights.ptd."""

from __future__ import annotations

from typing import Any

import numpy as np
from mobile_bundle.codecs import codec_for
from mobile_bundle.codecs.blob import HEADER_BYTES
from mobile_bundle.codecs.raw import is_float_vector
from mobile_bundle.container.index import IndexEntry
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.errors import InputError
from mobile_bundle.planning.sharing import shared_name
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

DOMAIN = "mobile_bundle"
CONTRIB = "com.microsoft"
EXTERNAL_FROM = 1024
"""Bytes from which a vector stays in weights.ptd; ONNX Runtime maps each external tensor apart, a page at least."""


class Graph:
    """Nodes and initializers; `weights` is where the latter lie."""

    def __init__(self, weights: WeightsReader) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._weights = weights
        self._known: set[str] = set()

    def node(
        self,
        operator: str,
        inputs: list[str],
        name: str,
        outputs: list[str] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Adds a node and returns its first output, which is named like the node unless `outputs` are given."""
        names = outputs or [name]
        self.nodes.append(helper.make_node(operator, inputs, names, name=name, domain=domain, **attributes))
        return names[0]

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A small initializer inside of the .onnx file."""
        if name not in self._known:
            self._known.add(name)
            self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def vector(self, name: str) -> str:
        """A float32 vector of weights.ptd, shape (columns,). UserError if it is not float32."""
        entry = self._entry(name)
        if not is_float_vector(entry.header):
            raise InputError(f"{self._weights.path}: {name} is not a float32 vector", "build the bundle again")
        if entry.header.payload_bytes < EXTERNAL_FROM:
            payload = self._weights.blob(name).payload
            return self.constant(name, np.frombuffer(payload, "<f4").astype(np.float32))
        place = entry.offset + HEADER_BYTES
        return self._external(name, TensorProto.FLOAT, entry.header.columns, place, entry.header.payload_bytes)

    def has(self, name: str) -> bool:
        """Whether weights.ptd has a tensor of that name."""
        return name in self._weights

    def matrix(self, name: str) -> list[str]:
        """The blob of a matrix, uint8 (bytes,), and behind it the codebook that it shares with others, if it does."""
        names = [self._blob(name)]
        if shared := codec_for(self._weights.packed_header(name)).shared_codebook:
            names.append(self._blob(shared_name(name, shared)))
        return names

    def shape(self, name: str) -> tuple[int, int]:
        """(rows, columns) of a matrix."""
        header = self._weights.entry(name).header
        return header.rows, header.columns

    def multiply(self, x: str, names: list[str], node: str, outputs: list[str], round_input: bool) -> list[str]:
        """y_i = W_i x of matrices that share the input x, as one node: x float32 (..., columns), y_i (..., rows_i)."""
        inputs = [x] + [blob for name in names for blob in self.matrix(name)]
        extra = {"round_input": 1} if round_input else {}
        rows = [self.shape(name)[0] for name in names]
        self.node("CompressedMatMul", inputs, node, outputs, DOMAIN, rows=rows, **extra)
        return outputs

    def _entry(self, name: str) -> IndexEntry:
        try:
            return self._weights.entry(name)
        except KeyError:
            raise InputError(f"{self._weights.path}: tensor {name} is missing", "build the bundle again") from None

    def _blob(self, name: str) -> str:
        entry = self._entry(name)
        return self._external(name, TensorProto.UINT8, entry.bytes, entry.offset, entry.bytes)

    def _external(self, name: str, kind: int, elements: int, offset: int, size: int) -> str:
        if name in self._known:
            return name
        self._known.add(name)
        tensor = TensorProto(name=name, data_type=kind, dims=[elements], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self._weights.path.name), ("offset", str(offset)), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
        self.initializers.append(tensor)
        return name
