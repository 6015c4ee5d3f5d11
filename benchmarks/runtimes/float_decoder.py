"""The decoder as an ONNX graph of ONNX Runtime's own operators, with its own attention in float32 over a cache that is
input and output. Only the products are ours: CompressedMatMul and CompressedGather, which onnx_peer.py replaces.

This is the model.onnx that bundles had before the operator Decoder; such files still run.
Shapes: s tokens of this run, p of the past, t = p + s; batch is 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from float_graph import CONTRIB, DOMAIN, Graph
from mobile_bundle.container.weights import WeightsReader
from mobile_bundle.errors import UnsupportedError
from mobile_bundle.models.spec import ModelConfig
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

OPSETS = {"": 23, CONTRIB: 1, DOMAIN: 1}
"""Versions of the operators' domains; 23 is the first with RotaryEmbedding and RMSNormalization."""


def float_model(weights: WeightsReader) -> ModelProto:
    """The model of a bundle whose weights.ptd this is; it must lie beside that file."""
    graph = decoder_graph(ModelConfig.parse(weights.config), Graph(weights))
    opsets = [helper.make_opsetid(domain, number) for domain, number in OPSETS.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=11, producer_name="mobile-bundle")


def decoder_graph(config: ModelConfig, graph: Graph) -> GraphProto:
    """input_ids, attention_mask and past_key_values.N.key/value to logits of the last token and present.N.key/value."""
    if config.convolution_layers:
        raise UnsupportedError("model.onnx cannot have layers with a short convolution (LFM2)", "leave onnx out")
    places = _places(config, graph)
    hidden = graph.node(
        "CompressedGather",
        ["input_ids", *graph.matrix("embedding.weight")],
        "/embedding",
        None,
        DOMAIN,
        columns=[config.hidden],
    )
    hidden = _scaled(graph, hidden, config.embedding_scale, "/embedding/scaled")
    normed = _norm(config, graph, hidden, "layers.0.attention.norm.weight", "/layers.0/attention/norm")
    for layer in range(config.layers):
        mixed = _attention(config, graph, layer, normed, places[config.window_of(layer) > 0])
        last = layer + 1 == config.layers
        hidden, normed = _join(
            config, graph, hidden, mixed, f"layers.{layer}.attention.output", f"layers.{layer}.attention.output.norm",
            f"layers.{layer}.mlp.norm.weight", f"/layers.{layer}/mlp/norm",
        )  # fmt: skip
        fed = _mlp(config, graph, layer, normed)
        hidden, normed = _join(
            config, graph, hidden, fed, f"layers.{layer}.mlp.down", f"layers.{layer}.mlp.output.norm",
            "norm.weight" if last else f"layers.{layer + 1}.attention.norm.weight",
            "/norm" if last else f"/layers.{layer + 1}/attention/norm",
        )  # fmt: skip
    # Only the last token's: 300 tokens of a vocabulary of 151,000 would be 180 MB.
    end = graph.constant("/constants/last", np.array([-1], np.int64))
    final = graph.node("Gather", [normed, end], "/last_token", axis=1)
    head = "output.weight" if graph.has("output.weight") else "embedding.weight"
    if config.logit_cap:
        logits = graph.multiply(final, [head], "/output", ["/output/logits"], False)[0]
        cap = graph.constant("/constants/logit_cap", np.array(config.logit_cap, np.float32))
        bent = graph.node("Tanh", [graph.node("Div", [logits, cap], "/output/divided")], "/output/tanh")
        graph.node("Mul", [bent, cap], "/output/capped", ["logits"])
    else:
        graph.multiply(final, [head], "/output", ["logits"], False)
    inputs, outputs = _interface(config)
    return helper.make_graph(graph.nodes, config.name or "decoder", inputs, outputs, graph.initializers)


class _Places:
    """Where this run's tokens stand: int32 (1,) and () for the attention, float32 (1, s, rotary_dim / 2) to rotate."""

    def __init__(self, seqlens: str, total: str, cosines: str, sines: str) -> None:
        self.seqlens, self.total, self.cosines, self.sines = seqlens, total, cosines, sines


def _places(config: ModelConfig, graph: Graph) -> tuple[_Places, _Places]:
    """For layers that see all positions, and for those with a window, which may have a rotary table of their own.

    From the number of ones in attention_mask: it is right for a past that grows and for buffers of a fixed size."""
    one = graph.constant("/constants/one", np.array(1, np.int64))
    first = graph.constant("/constants/axis_0", np.array([0], np.int64))
    second = graph.constant("/constants/axis_1", np.array([1], np.int64))
    counted = graph.node("ReduceSum", ["attention_mask", second], "/positions/total_1d", keepdims=0)
    total = graph.node("Squeeze", [counted, first], "/positions/total")
    seqlens = graph.node(
        "Cast", [graph.node("Sub", [counted, one], "/positions/seqlens")], "/positions/seqlens_k", to=TensorProto.INT32
    )
    length = graph.node("Cast", [total], "/positions/total_sequence_length", to=TensorProto.INT32)
    tokens = graph.node("Shape", ["input_ids"], "/positions/tokens_1d", start=1, end=2)
    begin = graph.node("Sub", [total, graph.node("Squeeze", [tokens, first], "/positions/tokens")], "/positions/begin")
    numbers = graph.node("Range", [begin, total, one], "/positions/range")
    floats = graph.node("Cast", [numbers], "/positions/float", to=TensorProto.FLOAT)
    column = graph.node("Unsqueeze", [floats, second], "/positions/column")

    def place(table: str, node: str) -> _Places:
        angles = graph.node("Mul", [column, graph.vector(table)], f"{node}/angles_2d")
        angles = graph.node("Unsqueeze", [angles, first], f"{node}/angles")
        cosines, sines = graph.node("Cos", [angles], f"{node}/cos"), graph.node("Sin", [angles], f"{node}/sin")
        cosines = _scaled(graph, cosines, config.rotary_scale, f"{node}/cos_scaled")
        return _Places(seqlens, length, cosines, _scaled(graph, sines, config.rotary_scale, f"{node}/sin_scaled"))

    whole = place("rope.inverse_frequencies", "/positions")
    return whole, place("rope.window.inverse_frequencies", "/positions/window") if config.window_rope else whole


def _attention(config: ModelConfig, graph: Graph, layer: int, x: str, places: _Places) -> str:
    """x (1, s, hidden), normed, to the output projection's result (1, s, hidden), still without its bias."""
    tensors, nodes = f"layers.{layer}.attention", f"/layers.{layer}/attention"
    parts = ["query", "key", "value"]
    products = graph.multiply(
        x,
        [f"{tensors}.{part}.weight" for part in parts],
        f"{nodes}/qkv",
        [f"{nodes}/qkv/{part}" for part in parts],
        config.ternary,
    )
    query, key, value = (
        _add_bias(graph, product, f"{tensors}.{part}", f"{nodes}/{part}/bias")
        for part, product in zip(parts, products, strict=True)
    )
    turned = None if layer in config.unrotated_layers else places
    query = _rotated(config, graph, query, f"{tensors}.query", f"{nodes}/query", config.heads, turned)
    key = _rotated(config, graph, key, f"{tensors}.key", f"{nodes}/key", config.kv_heads, turned)
    key, value = _half(graph, key, f"{nodes}/key"), _half(graph, value, f"{nodes}/value")
    past = [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
    mixed = graph.node(
        "GroupQueryAttention",
        [query, key, value, *past, places.seqlens, places.total],
        f"{nodes}/attend",
        [f"{nodes}/attend", f"present.{layer}.key", f"present.{layer}.value"],
        CONTRIB,
        num_heads=config.heads,
        kv_num_heads=config.kv_heads,
        do_rotary=0,
        local_window_size=config.window_of(layer) or -1,
        scale=config.query_scale,
        **({"softcap": config.score_cap} if config.score_cap else {}),
    )
    if graph.has(f"{tensors}.sub_norm.weight"):
        mixed = _norm(config, graph, mixed, f"{tensors}.sub_norm.weight", f"{nodes}/sub_norm")
    return graph.multiply(mixed, [f"{tensors}.output.weight"], f"{nodes}/output", [f"{nodes}/output"], config.ternary)[
        0
    ]


def _rotated(
    config: ModelConfig, graph: Graph, x: str, tensor: str, node: str, heads: int, places: _Places | None
) -> str:
    """Queries or keys (1, s, heads * head_dim), rotated by their places (None: not), and normed before or after where
    the model does."""
    if not config.late_qk_norms:
        x = _heads_norm(config, graph, x, tensor, node, heads)
    if places is not None:
        part: dict[str, Any] = (
            {} if config.rotary_dim == config.head_dim else {"rotary_embedding_dim": config.rotary_dim}
        )
        x = graph.node(
            "RotaryEmbedding", [x, places.cosines, places.sines], f"{node}/rotate", num_heads=heads, interleaved=0,
            **part,
        )  # fmt: skip
    return _heads_norm(config, graph, x, tensor, node, heads) if config.late_qk_norms else x


def _heads_norm(config: ModelConfig, graph: Graph, x: str, tensor: str, node: str, heads: int) -> str:
    """The norm of every head, or of all together."""
    if graph.has(f"{tensor}.norm.weight") and config.wide_qk_norms:
        return _norm(config, graph, x, f"{tensor}.norm.weight", f"{node}/norm")
    if graph.has(f"{tensor}.norm.weight"):
        apart = graph.constant(f"/constants/heads_{heads}", np.array([0, 0, heads, config.head_dim], np.int64))
        joined = graph.constant(f"/constants/joined_{heads}", np.array([0, 0, heads * config.head_dim], np.int64))
        x = graph.node("Reshape", [x, apart], f"{node}/heads")
        x = _norm(config, graph, x, f"{tensor}.norm.weight", f"{node}/norm")
        x = graph.node("Reshape", [x, joined], f"{node}/joined")
    return x


def _half(graph: Graph, x: str, node: str) -> str:
    """x with the precision of float16, in which the engine's f16 cache keeps keys and values: the same input for both
    attentions."""
    half = graph.node("Cast", [x], f"{node}/half", to=TensorProto.FLOAT16)
    return graph.node("Cast", [half], f"{node}/rounded", to=TensorProto.FLOAT)


def _mlp(config: ModelConfig, graph: Graph, layer: int, x: str) -> str:
    """x (1, s, hidden), normed, to the down projection's result (1, s, hidden), still without its bias."""
    tensors, nodes = f"layers.{layer}.mlp", f"/layers.{layer}/mlp"
    gate, up = graph.multiply(
        x, [f"{tensors}.gate.weight", f"{tensors}.up.weight"], f"{nodes}/gate_up",
        [f"{nodes}/gate_up/gate", f"{nodes}/gate_up/up"], config.ternary,
    )  # fmt: skip
    gate = _add_bias(graph, gate, f"{tensors}.gate", f"{nodes}/gate/bias")
    up = _add_bias(graph, up, f"{tensors}.up", f"{nodes}/up/bias")
    if config.activation == "silu":
        active = graph.node("Mul", [gate, graph.node("Sigmoid", [gate], f"{nodes}/sigmoid")], f"{nodes}/silu")
    elif config.activation == "gelu_tanh":
        active = graph.node("Gelu", [gate], f"{nodes}/gelu", approximate="tanh")
    else:
        positive = graph.node("Relu", [gate], f"{nodes}/relu")
        active = graph.node("Mul", [positive, positive], f"{nodes}/relu2")
    product = graph.node("Mul", [active, up], f"{nodes}/product")
    if graph.has(f"{tensors}.sub_norm.weight"):
        product = _norm(config, graph, product, f"{tensors}.sub_norm.weight", f"{nodes}/sub_norm")
    return graph.multiply(product, [f"{tensors}.down.weight"], f"{nodes}/down", [f"{nodes}/down"], config.ternary)[0]


def _norm(config: ModelConfig, graph: Graph, x: str, weight: str, node: str) -> str:
    """x as it is where the model has no such norm."""
    if not graph.has(weight):
        return x
    return graph.node("RMSNormalization", [x, graph.vector(weight)], node, axis=-1, epsilon=config.norm_epsilon)


def _scaled(graph: Graph, x: str, factor: float, node: str) -> str:
    if factor == 1:
        return x
    return graph.node("Mul", [x, graph.constant(f"/constants/times_{factor}", np.array(factor, np.float32))], node)


def _join(
    config: ModelConfig, graph: Graph, hidden: str, given: str, tensor: str, output_norm: str, weight: str, node: str
) -> tuple[str, str]:
    """(hidden + what the projection `tensor` gave, that sum normed for the next), in one node where they are plain."""
    total = f"{node}/sum"
    if config.residual_scale == 1 and not config.output_norms and graph.has(weight):
        return _add_and_norm(config, graph, hidden, given, _bias(graph, tensor), weight, node)
    given = _add_bias(graph, given, tensor, f"{node}/given")
    given = _norm(config, graph, given, f"{output_norm}.weight", f"{node}/given_norm")
    given = _scaled(graph, given, config.residual_scale, f"{node}/given_scaled")
    hidden = graph.node("Add", [hidden, given], total)
    return hidden, _norm(config, graph, hidden, weight, node)


def _add_and_norm(
    config: ModelConfig, graph: Graph, hidden: str, added: str, bias: list[str], weight: str, node: str
) -> tuple[str, str]:
    """(hidden + added + bias, that sum normed), in one node."""
    total = f"{node}/sum"
    normed = graph.node(
        "SkipSimplifiedLayerNormalization",
        [hidden, added, graph.vector(weight), *bias],
        node,
        [node, "", "", total],
        CONTRIB,
        epsilon=config.norm_epsilon,
    )
    return total, normed


def _bias(graph: Graph, tensor: str) -> list[str]:
    return [graph.vector(f"{tensor}.bias")] if graph.has(f"{tensor}.bias") else []


def _add_bias(graph: Graph, x: str, tensor: str, node: str) -> str:
    bias = _bias(graph, tensor)
    return graph.node("Add", [x, *bias], node) if bias else x


def _interface(config: ModelConfig) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    """Inputs and outputs, named as onnxruntime-genai names them."""

    def floats(name: str, shape: list[int | str]) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    def integers(name: str, length: str) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.INT64, [1, length])

    inputs = [integers("input_ids", "sequence_length"), integers("attention_mask", "total_sequence_length")]
    outputs = [floats("logits", [1, 1, config.vocabulary])]
    for layer in range(config.layers):
        for part in ("key", "value"):
            past: list[int | str] = [1, config.kv_heads, "past_sequence_length", config.head_dim]
            present: list[int | str] = [1, config.kv_heads, "present_sequence_length", config.head_dim]
            inputs.append(floats(f"past_key_values.{layer}.{part}", past))
            outputs.append(floats(f"present.{layer}.{part}", present))
    return inputs, outputs
