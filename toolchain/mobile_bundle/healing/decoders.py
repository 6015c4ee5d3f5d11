"""The two models of a distillation: the original, frozen, and the student, whose matrices are trained with their
rounding. Both run calibrate/decoder.py's layers.

Shapes: tokens int64 (sequences, tokens); hidden states float32 (sequences, tokens, hidden).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from mobile_bundle.calibrate.activations import Int8Runner, round_int8
from mobile_bundle.calibrate.decoder import PROJECTIONS, LayerRunner, embedded, normalise, rotary
from mobile_bundle.calibrate.walk import layer_tensors, layer_weights, read_matrix
from mobile_bundle.codecs import Stats, StreamCodec
from mobile_bundle.healing.grids import Grid, make_grid
from mobile_bundle.healing.matrix import Matrix
from mobile_bundle.models import DecoderSpec, Model, TensorSpec

Statistics = Callable[[TensorSpec], Stats | None]


LayerFunction = Callable[[DecoderSpec, int, Mapping[str, Tensor], Tensor, Tensor, Tensor], Tensor]


def run_layer(
    spec: DecoderSpec, like: int, weights: Mapping[str, Tensor], cosines: Tensor, sines: Tensor, x: Tensor
) -> Tensor:
    """The output, for the input x, of a layer that computes as the layer `like` (first_alike)."""
    return LayerRunner(spec, weights, cosines, sines, like).forward(x)


def first_alike(spec: DecoderSpec, layer: int) -> int:
    """The first layer that computes as this one does: with or without a window, positions, attention. Compiled code
    holds the number that it was made for, so layers of a kind share the code of their first."""

    def kind(number: int) -> tuple[int, bool, bool]:
        return spec.window_of(number), number in spec.convolution_layers, number in spec.unrotated_layers

    return next(number for number in range(layer + 1) if kind(number) == kind(layer))


class Original:
    """The model as it was. dtype: of its matrices; norms are float32. layer: what runs a layer."""

    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype) -> None:
        self.spec = model.spec
        by_name = {tensor.name: tensor for tensor in model.tensors}

        def matrix(name: str) -> Tensor:
            return torch.from_numpy(read_matrix(model, by_name[name])).to(device, dtype)

        self.layers = [
            {
                name: value.to(device, dtype if value.ndim == 2 else torch.float32)
                for name, value in layer_weights(model, layer).items()
            }
            for layer in range(self.spec.layers)
        ]
        self.embedding = matrix("embedding.weight")
        self.norm = torch.from_numpy(read_matrix(model, by_name["norm.weight"])[0]).to(device)
        self.head = self.embedding if self.spec.tied else matrix("output.weight")
        self._tables: dict[int, tuple[Tensor, Tensor]] = {}
        self.layer: LayerFunction = run_layer

    def tables(self, tokens: int) -> tuple[Tensor, Tensor]:
        """rotary's, on the model's device."""
        if tokens not in self._tables:
            cosines, sines = rotary(self.spec, tokens)
            self._tables[tokens] = cosines.to(self.norm.device), sines.to(self.norm.device)
        return self._tables[tokens]

    @torch.no_grad()
    def hidden(self, tokens: Tensor, outputs: list[Tensor] | None = None) -> Tensor:
        """What the head sees: the last layer's output, normed. In float32, but under autocast. outputs: takes every
        layer's output."""
        x = embedded(self.spec, self.embedding[tokens].float())
        tables = self.tables(tokens.shape[1])
        exact = self.embedding.dtype != torch.float32 and not torch.is_autocast_enabled(x.device.type)
        for number, weights in enumerate(self.layers):
            if exact:
                weights = {name: value.float() for name, value in weights.items()}
            x = self.layer(self.spec, first_alike(self.spec, number), weights, *tables, x)
            if outputs is not None:
                outputs.append(x)
        return normalise(x, self.norm, self.spec.norm_epsilon)


class StudentLayer(nn.Module):
    """One decoder layer. like: the first that computes as it does (first_alike). matrices: by projection, without
    ".weight"; vectors: norms, biases and taps by our names, with dots as colons."""

    def __init__(self, spec: DecoderSpec, like: int, matrices: dict[str, Matrix], vectors: dict[str, Tensor]) -> None:
        super().__init__()
        self.spec, self.like = spec, like
        self.matrices = nn.ModuleDict({_key(name): matrix for name, matrix in matrices.items()})
        self.vectors = nn.ParameterDict({_key(name): nn.Parameter(value) for name, value in vectors.items()})
        self.groups = {
            entrance: matrices[name].grid.activation_group for name, entrance in PROJECTIONS.items() if name in matrices
        }

    def weights(self) -> dict[str, Tensor]:
        """As LayerRunner takes them, rounded."""
        out: dict[str, Tensor] = {f"{_name(key)}.weight": matrix() for key, matrix in self.matrices.items()}
        out.update({_name(key): value for key, value in self.vectors.items()})
        return out

    def forward(self, hidden: Tensor, cosines: Tensor, sines: Tensor, int8: bool) -> Tensor:
        layer = self.spec, self.weights(), cosines, sines, self.like
        return (Int8Runner(self.groups, *layer) if int8 else LayerRunner(*layer)).forward(hidden)


class Student(nn.Module):
    """int8: inputs of the projections and of the head, keys and values are rounded as in the engine. checkpointing:
    layers are computed again in the backward pass, which saves the memory of their activations."""

    def __init__(
        self, original: Original, layers: list[StudentLayer], embedding: Matrix, norm: Tensor, output: Matrix | None
    ) -> None:
        super().__init__()
        self._original = [original]  # in a list: its weights are none of this module's
        self.layers = nn.ModuleList(layers)
        self.embedding = embedding
        self.norm = nn.Parameter(norm)
        self.output = output
        self.int8 = False
        self.checkpointing = False

    def forward(self, tokens: Tensor, outputs: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """What the head sees, and the head's rounded weights, float32 (vocabulary, hidden). outputs: takes every
        layer's output."""
        spec = self._original[0].spec
        tables = self._original[0].tables(tokens.shape[1])
        embedding = self.embedding()
        x = embedded(spec, nn.functional.embedding(tokens, embedding))
        for layer in self.layers:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, *tables, self.int8, use_reentrant=False)
            else:
                x = layer(x, *tables, self.int8)
            if outputs is not None:
                outputs.append(x)
        x = normalise(x, self.norm, spec.norm_epsilon)
        head = self.embedding if self.output is None else self.output
        if self.int8:
            x = round_int8(x, head.grid.activation_group)
        return x, embedding if self.output is None else self.output()

    @torch.no_grad()
    def soften(self, softness: float) -> None:
        """Of all matrices whose format can begin softer (Grid.values)."""
        for module in self.modules():
            if isinstance(module, Matrix):
                module.softness.fill_(softness)

    @torch.no_grad()
    def tensors(self, keep: bool = True) -> dict[str, Tensor]:
        """Every tensor of the healed model by our name, float32 on the CPU; matrices rounded. Computed there, so that
        the values do not depend on the device. All processes of a student in shards must call it; keep: whether this
        one wants the result, which is empty otherwise."""
        out: dict[str, Tensor] = {}

        def add(name: str, value: Tensor | Matrix) -> None:
            found = _rounded(value) if isinstance(value, Matrix) else _whole(value)
            if keep:
                out[name] = found

        add("embedding.weight", self.embedding)
        add("norm.weight", self.norm)
        if self.output is not None:
            add("output.weight", self.output)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, StudentLayer)
            for key, matrix in layer.matrices.items():
                assert isinstance(matrix, Matrix)
                add(f"layers.{number}.{_name(key)}.weight", matrix)
            for key, value in layer.vectors.items():
                add(f"layers.{number}.{_name(key)}", value)
        return out


SCALE_RATE = 0.3
"""Of the learning rate, for scales and offsets."""


def rated(module: nn.Module, rate: float) -> list[dict[str, Any]]:
    """Parameters with their rates, for an optimiser; `share` is their part of a rate that changes."""
    fine: list[nn.Parameter] = []
    coarse: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        (fine if name.endswith((".scale", ".offset")) else coarse).append(parameter)
    groups = ((coarse, 1.0), (fine, SCALE_RATE))
    return [{"params": found, "lr": rate * share, "share": share} for found, share in groups]


class Grids:
    """The grid of every matrix: one object for all of a kind, so that a compiled layer serves them all."""

    def __init__(self, assignment: Mapping[str, StreamCodec]) -> None:
        self._assignment = assignment
        self._made: dict[tuple[str, int], Grid] = {}

    def of(self, tensor: TensorSpec) -> Grid:
        """UnsupportedError for a codec that cannot be trained."""
        codec = self._assignment[tensor.name]
        key = codec.name, tensor.columns
        if key not in self._made:
            self._made[key] = make_grid(codec, tensor.columns)
        return self._made[key]

    def matrix(self, model: Model, tensor: TensorSpec, stats: Stats | None = None) -> Matrix:
        """The matrix at its start."""
        grid = self.of(tensor)
        return Matrix(grid, grid.start(read_matrix(model, tensor), stats))


def student_layer(model: Model, grids: Grids, layer: int, stats: Mapping[str, Stats]) -> StudentLayer:
    """A layer at its start. stats: calibration's, by entrance of PROJECTIONS; none: least squared error."""
    matrices, vectors = {}, {}
    for name, tensor in layer_tensors(model, layer).items():
        if tensor.role == "body":
            projection = name.removesuffix(".weight")
            matrices[projection] = grids.matrix(model, tensor, stats.get(PROJECTIONS[projection]))
        else:
            vectors[name] = torch.from_numpy(read_matrix(model, tensor)[0].copy())
    return StudentLayer(model.spec, first_alike(model.spec, layer), matrices, vectors)


def _rounded(matrix: Matrix) -> Tensor:
    offset = None if matrix.offset is None else _whole(matrix.offset)
    decode = matrix.grid.decoded if matrix.codes_fixed else matrix.grid.values
    values = decode(_whole(matrix.weight), _whole(matrix.scale), offset, matrix.unit.cpu())
    return values.contiguous() + 0.0  # -0 becomes 0


def _whole(value: Tensor) -> Tensor:
    """On the CPU, of shards on several devices as well."""
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()


def _key(name: str) -> str:
    return name.replace(".", ":")


def _name(key: str) -> str:
    return key.replace(":", ".")
