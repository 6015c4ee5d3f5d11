"""The graph of model.onnx: one node, the operator Decoder, whose initializer is the index of weights.ptd.

Needs the onnx package; mobile_bundle.export.onnx sees to it.
"""

from __future__ import annotations

from onnx import GraphProto, TensorProto, ValueInfoProto, helper

from mobile_bundle.container.weights import INDEX_KEY, WeightsReader
from mobile_bundle.models.spec import ModelConfig

DOMAIN = "mobile_bundle"
OPSETS = {"": 21, DOMAIN: 1}
"""Versions of the operators' domains; no operator of ONNX's own is used."""


def decoder_graph(config: ModelConfig, weights: WeightsReader) -> GraphProto:
    """input_ids, attention_mask and past_key_values.0.key/value to logits of the last token and present.0.key/value.

    Named and shaped as onnxruntime-genai binds the cache of a model with one layer, one head and one channel. What is
    bound there are the numbers of the tokens so far, as float32 (1, 1, t, 1); the keys and values themselves are in the
    operator. The second of the pair is not looked at.
    """
    offset, size = weights.index_place
    index = TensorProto(name=INDEX_KEY, data_type=TensorProto.UINT8, dims=[size], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", weights.path.name), ("offset", str(offset)), ("length", str(size))):
        index.external_data.add(key=key, value=value)
    node = helper.make_node(
        "Decoder",
        ["input_ids", "attention_mask", "past_key_values.0.key", INDEX_KEY],
        ["logits", "present.0.key", "present.0.value"],
        "/decoder",
        domain=DOMAIN,
        index_crc32=weights.index_crc32,
        vocabulary=config.vocabulary,
    )
    inputs = [_integers("input_ids", "sequence_length"), _integers("attention_mask", "total_sequence_length")]
    inputs += [_tokens(f"past_key_values.0.{part}", "past_sequence_length") for part in ("key", "value")]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, config.vocabulary])]
    outputs += [_tokens(f"present.0.{part}", "present_sequence_length") for part in ("key", "value")]
    return helper.make_graph([node], config.name or "decoder", inputs, outputs, [index])


def _integers(name: str, length: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64, [1, length])


def _tokens(name: str, length: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, length, 1])
