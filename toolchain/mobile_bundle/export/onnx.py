"""model.onnx: the decoder of a bundle for ONNX Runtime. Its weights stay where they are, in weights.ptd beside it.

The products are the operators CompressedMatMul and CompressedGather of domain `mobile_bundle`, which
libmobile_bundle_onnx.so brings (runtime/onnxruntime/); everything else is ONNX Runtime's own.
"""

from __future__ import annotations

from pathlib import Path

import mobile_bundle
from mobile_bundle.container.disk import write_file
from mobile_bundle.container.index import ContainerError
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.errors import UserError
from mobile_bundle.export import genai_config
from mobile_bundle.models.engine_config import parse_engine_config

NAME = "model.onnx"


def export_onnx(directory: Path, architecture: str = "", recipe: str = "") -> list[Path]:
    """Writes model.onnx beside the weights.ptd in `directory`, and returns the files it wrote: genai_config.json, too,
    where onnxruntime-genai has a decoder type for `architecture` (config.json's, "LlamaForCausalLM").

    recipe: of the bundle, for the model's metadata. The bytes depend on weights.ptd's index and the arguments alone.
    UserError without the onnx package, or if weights.ptd is missing or damaged.
    """
    try:
        import onnx
    except ImportError:
        raise UserError("model.onnx needs the onnx package: pip install 'mobile-bundle[onnx]'") from None
    from mobile_bundle.export.onnx_decoder import OPSET, decoder_graph
    from mobile_bundle.export.onnx_graph import CONTRIB, DOMAIN, Graph

    try:
        with WeightsReader(directory / "weights.ptd") as weights:
            config = parse_engine_config(weights.config)
            graph = decoder_graph(config, Graph(weights))
    except (ContainerError, ValueError, KeyError) as error:
        raise UserError(f"{directory / 'weights.ptd'}: {error}; build the bundle again") from error
    opsets = [
        onnx.helper.make_opsetid("", OPSET),
        onnx.helper.make_opsetid(CONTRIB, 1),
        onnx.helper.make_opsetid(DOMAIN, 1),
    ]
    model = onnx.helper.make_model(
        graph,
        opset_imports=opsets,
        ir_version=11,
        producer_name="mobile-bundle",
        producer_version=mobile_bundle.__version__,
    )
    facts = {"model": config.name, "recipe": recipe, "tool_version": mobile_bundle.__version__}
    onnx.helper.set_model_props(model, facts)
    written = [directory / NAME]
    write_file(written[0], model.SerializeToString(deterministic=True))
    settings = genai_config.genai_config(config, architecture)
    if settings is not None:
        written.append(directory / genai_config.NAME)
        write_file(written[1], settings)
    return written
