"""For people who lower their own model with ExecuTorch: linear layers and embeddings with packed weights.

    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime
    from mobile_bundle.lower import load_operators, quantize_

    model = MyModel().eval()                         # any torch.nn.Module, float32
    quantize_(model, "affine-4bit", lambda module, name: "head" not in name)
    program = torch.export.export(model, inputs, dynamic_shapes=...)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    Path("model.pte").write_bytes(lowered.buffer)

    load_operators()                                 # then it runs in Python's ExecuTorch runtime, too
    Runtime.get().load_program("model.pte").load_method("forward").execute(inputs)

XNNPACK takes what was left: attention, activations, layers that the filter spared. In a C++ program the operators come
from the CMake target `mobile_bundle_executorch` (runtime/executorch). Needs torch and executorch (extra `executorch`).
"""

from __future__ import annotations

try:
    import torch  # noqa: F401  (asked for here, so that whoever lacks it reads what to install)
except ImportError as _error:
    from mobile_bundle.errors import InstallationError

    raise InstallationError(
        "mobile_bundle.lower needs torch", "pip install '.[executorch]' in a checkout of mobile-bundle"
    ) from _error

from mobile_bundle.lower.modules import CompressedEmbedding, CompressedLinear
from mobile_bundle.lower.quantize import Swapped, quantize_
from mobile_bundle.lower.runtime import load_operators, operator_library

__all__ = ["CompressedEmbedding", "CompressedLinear", "Swapped", "load_operators", "operator_library", "quantize_"]
