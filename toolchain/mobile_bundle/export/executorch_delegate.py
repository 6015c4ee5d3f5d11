"""The torch side of model.pte: an operator that stands for the decoder, and the partitioner that hands it over."""

from __future__ import annotations

from typing import Any, final

import torch
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.exir.backend.backend_details import BackendDetails, CompileSpec, PreprocessResult
from executorch.exir.backend.partitioner import DelegationSpec, Partitioner, PartitionResult
from executorch.exir.passes import MemoryPlanningPass
from torch import Tensor
from torch.export import Dim, ExportedProgram

_library = torch.library.Library("mobile_bundle_export", "DEF")  # type: ignore[no-untyped-call]
_SCHEMA = "decoder(Tensor tokens, Tensor input_pos, int vocabulary) -> Tensor"
_library.define(_SCHEMA)  # type: ignore[no-untyped-call]


@torch.library.register_fake("mobile_bundle_export::decoder")  # type: ignore[untyped-decorator]
def _decoder(tokens: Tensor, input_pos: Tensor, vocabulary: int) -> Tensor:
    """Logits float32 (1, vocabulary); there is nothing to compute before the device."""
    return tokens.new_empty((1, vocabulary), dtype=torch.float32)


class _Decoder(torch.nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary

    def forward(self, tokens: Tensor, input_pos: Tensor) -> Tensor:
        logits: Tensor = torch.ops.mobile_bundle_export.decoder(tokens, input_pos, self.vocabulary)
        return logits


@final
class MobileBundleBackend(BackendDetails):  # type: ignore[misc]
    """Its name is the backend id that the runtime looks up. What it hands over was made before: the compile spec."""

    @staticmethod
    def preprocess(edge_program: ExportedProgram, compile_specs: list[CompileSpec]) -> PreprocessResult:
        """The `processed` bytes of the delegate (mb_program)."""
        return PreprocessResult(processed_bytes=compile_specs[0].value)


@final
class _Partitioner(Partitioner):  # type: ignore[misc]
    def __init__(self, processed: bytes) -> None:
        self.delegation = DelegationSpec(MobileBundleBackend.__name__, [CompileSpec("program", processed)])

    def partition(self, exported_program: ExportedProgram) -> PartitionResult:
        """One partition: the decoder."""
        for node in exported_program.graph.nodes:
            if node.op == "call_function" and "mobile_bundle_export.decoder" in str(node.target):
                node.meta["delegation_tag"] = "decoder"
        return PartitionResult(tagged_exported_program=exported_program, partition_tags={"decoder": self.delegation})


def lower(processed: bytes, vocabulary: int, context: int, metadata: dict[str, Any]) -> bytes:
    """The bytes of the program. context: most tokens of one call; metadata: constant methods by name."""
    tokens, position = torch.zeros((1, 2), dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    shapes = {"tokens": {1: Dim("tokens", min=1, max=context)}, "input_pos": None}
    exported = torch.export.export(_Decoder(vocabulary), (tokens, position), dynamic_shapes=shapes)
    edge = to_edge_transform_and_lower(
        exported,
        partitioner=[_Partitioner(processed)],
        constant_methods=metadata,
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
    # The caller's own tensors are inputs: nothing to plan for them.
    planning = MemoryPlanningPass(alloc_graph_input=False)
    return bytes(edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning)).buffer)
