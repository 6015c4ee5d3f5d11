"""model.onnx: the decoder of a bundle for ONNX Runtime, as one operator. Its weights stay where they are, in
weights.ptd beside it.

The operator is Decoder of domain `mobile_bundle` (runtime/onnxruntime/decoder.h), which libmobile_bundle_onnx.so
brings: the engine itself, with its KV cache inside.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from mobile_bundle.container.index import ContainerError
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.errors import InputError, InstallationError
from mobile_bundle.export import genai_config
from mobile_bundle.files.disk import write_file
from mobile_bundle.models.spec import ModelConfig
from mobile_bundle.version import __version__

NAME = "model.onnx"


def export_onnx(directory: Path, recipe: str) -> str:
    """Writes model.onnx beside the weights.ptd of `directory`, and genai_config.json; the version of the onnx package
    that did it.

    recipe: of the bundle, for the model's metadata. The bytes depend on weights.ptd's index and the arguments alone.
    UserError without the onnx package, or if weights.ptd is missing or damaged.
    """
    try:
        import onnx
    except ImportError:
        raise InstallationError(
            "model.onnx needs the onnx package", "pip install '.[onnx]' in a checkout of mobile-bundle"
        ) from None
    from mobile_bundle.export.onnx_graph import OPSETS, decoder_graph

    try:
        with WeightsReader(directory / "weights.ptd") as weights:
            config = ModelConfig.parse(weights.config)
            graph = decoder_graph(config, weights)
            kind = genai_config.decoder_type(config, {entry.name for entry in weights.entries})
    except (ContainerError, ValueError) as error:
        raise InputError(f"{directory / 'weights.ptd'}: {error}", "build the bundle again") from error
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid(domain, number) for domain, number in OPSETS.items()],
        ir_version=10,
        producer_name="mobile-bundle",
        producer_version=__version__,
    )
    facts = {"model": config.name, "recipe": recipe, "tool_version": __version__}
    onnx.helper.set_model_props(model, facts)
    write_file(directory / NAME, model.SerializeToString(deterministic=True))
    write_file(directory / genai_config.NAME, genai_config.genai_config(config, kind))
    return version("onnx")
