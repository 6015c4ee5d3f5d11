"""The student's start: from the calibrated code of every matrix, or from rounding."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mobile_bundle.calibrate.walk import Walk, layer_weights, read_matrix
from mobile_bundle.codecs import Stats, StreamCodec
from mobile_bundle.healing.decoders import Grids, Original, Student, StudentLayer, student_layer
from mobile_bundle.healing.mixture import Tokens
from mobile_bundle.models import Model

Progress = Callable[[int, int, str], None]


def make_student(
    model: Model,
    original: Original,
    codecs: dict[str, StreamCodec],
    windows: Tokens | None,
    progress: Progress = lambda done, total, what: None,
) -> Student:
    """On the CPU. windows: token ids int32 (count, tokens) to calibrate on, layer by layer, each layer with the inputs
    that the coded ones before it give; None: scales of least squared error."""
    grids = Grids(codecs)
    by_name = {tensor.name: tensor for tensor in model.tensors}
    embedding = grids.matrix(model, by_name["embedding.weight"])
    output = None if model.spec.tied else grids.matrix(model, by_name["output.weight"])
    walk = reference = None
    if windows is not None:
        walk = Walk(model, windows, embedding().detach().numpy())
        reference = Walk(model, windows, read_matrix(model, by_name["embedding.weight"]))
    layers: list[StudentLayer] = []
    for number in range(model.spec.layers):
        layers.append(_layer(model, grids, number, walk, reference))
        progress(number + 1, model.spec.layers, f"layer {number}")
    norm = torch.from_numpy(read_matrix(model, by_name["norm.weight"])[0].copy())
    return Student(original, layers, embedding, norm, output)


def _layer(model: Model, grids: Grids, number: int, walk: Walk | None, reference: Walk | None) -> StudentLayer:
    if walk is None or reference is None:
        return student_layer(model, grids, number, {})
    inputs = walk.inputs(layer_weights(model, number), reference)
    stats = {name: Stats(hessian=hessian, drift=drift) for name, (hessian, drift) in inputs.items()}
    layer = student_layer(model, grids, number, stats)
    walk.advance({name: value.detach() for name, value in layer.weights().items()})
    return layer
