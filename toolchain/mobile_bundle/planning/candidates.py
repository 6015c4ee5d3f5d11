"""The codecs that a plan may choose from: their bytes, predicted loss and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mobile_bundle.codecs import StreamCodec, codec_by_name
from mobile_bundle.codecs.declaration import rules_of
from mobile_bundle.codecs.registry import GAUSSIAN_ERROR, worth_choosing
from mobile_bundle.models import TensorSpec


@dataclass(frozen=True)
class Losses:
    """What codes would cost one tensor, nats per token. sensitivity: at a relative squared error of 1; tried: by the
    codec's name, where its error was measured (calibrate/profile.py). As a prediction such a cost is multiplied by
    `share`, and one of `inputs` is added: what a code costs because its kernels round the inputs to int8, by its
    `activation_group`."""

    sensitivity: float = 1.0
    tried: Mapping[str, float] = field(default_factory=dict)
    share: float = 1.0
    inputs: Mapping[int, float] = field(default_factory=dict)

    def of(self, codec: str) -> float:
        """Of a codec's name: what was tried, else by its error on Gaussian weights; 0 for a codec without any."""
        found = self.tried.get(codec)
        return self.sensitivity * GAUSSIAN_ERROR.get(codec, 0.0) if found is None else found

    def predicted(self, cost: float, codec: StreamCodec) -> float:
        """What `of` gave for a codec, as a prediction."""
        group = codec.activation_group
        return self.share * cost + (0.0 if group is None else self.inputs.get(group, 0.0))


@dataclass(frozen=True)
class Candidate:
    """A codec for one tensor. bytes: of its blob; loss: nats per token; time: that
    decoding a token spends on it, in weights of affine-4bit; price: of its time, nats."""

    codec: StreamCodec
    bytes: int
    loss: float
    time: float = 0.0
    price: float = 0.0

    @property
    def cost(self) -> float:
        """What the allocation minimises."""
        return self.loss + self.price


def candidates(
    tensor: TensorSpec,
    losses: Losses,
    exact: StreamCodec | None = None,
    price: float = 0.0,
    lookup: bool = False,
) -> list[Candidate]:
    """Codecs on the lower convex hull of (bytes, cost), cheapest first.

    exact: a codec that holds this tensor without loss; price: nats per weight of affine-4bit that decoding a token
    spends time on; lookup: a token reads one row and multiplies by none."""

    def candidate(codec: StreamCodec, loss: float) -> Candidate:
        time = 0.0 if lookup else decode_cost(codec) * tensor.rows * tensor.columns
        return Candidate(codec, codec.blob_bytes(tensor.rows, tensor.columns), loss, time, price * time)

    found = [] if exact is None else [candidate(exact, 0.0)]
    worth = worth_choosing(tensor.columns)
    for name in GAUSSIAN_ERROR:
        if name not in worth:
            continue
        found.append(candidate(codec_by_name(name), losses.of(name)))
    return _hull(found)


def decode_cost(codec: StreamCodec) -> float:
    """FormatRules.decode_cost of what the codec's blobs are computed with, once installed."""
    rules = codec.packed.rules
    if rules.installed:
        rules = rules_of(rules.installed.format)
    return rules.decode_cost or 0.0


def _hull(found: list[Candidate]) -> list[Candidate]:
    """Drops candidates that are larger and no better, and those above a line between two others."""
    hull: list[Candidate] = []
    for each in sorted(found, key=lambda each: (each.bytes, each.cost)):
        if hull and each.cost >= hull[-1].cost:
            continue
        while len(hull) > 1 and _slope(hull[-2], each) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(each)
    return hull


def _slope(a: Candidate, b: Candidate) -> float:
    """Cost per byte, negative: the steeper, the more a byte saves."""
    return (b.cost - a.cost) / (b.bytes - a.bytes)
