"""The planner: from a budget to a codec for every tensor. Here --max-size becomes bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mobile_bundle.codecs import StreamCodec, codec_by_name
from mobile_bundle.codecs.declaration import all_rules
from mobile_bundle.codecs.registry import GAUSSIAN_ERROR
from mobile_bundle.errors import BudgetError
from mobile_bundle.models import DecoderSpec, TensorSpec
from mobile_bundle.planning.allocate import Choice, allocate, cheapest
from mobile_bundle.planning.candidates import Candidate, Losses, candidates, decode_cost

Assignment = dict[str, StreamCodec]

USUAL_SPEED = 0.5
"""What a plan's decoding keeps to where nobody asked for a speed: without a limit it would be filled with the code that
is the slowest."""
_PRICES = 16
"""Prices of time that are tried, each by halving the range of its logarithm."""


@dataclass(frozen=True)
class Budget:
    """Limits; None: no limit. max_size: installed size per ABI, bytes; max_ram: predicted peak memory, bytes;
    max_perplexity: predicted, on the calibration text; min_speed: of decoding, beside the same model with every matrix
    as affine-4bit, by the decode cost of the codes. None: USUAL_SPEED, as far as the other limits allow it."""

    max_size: int | None = None
    max_ram: int | None = None
    max_perplexity: float | None = None
    min_speed: float | None = None

    def __bool__(self) -> bool:
        return any(limit is not None for limit in (self.max_size, self.max_ram, self.max_perplexity))


@dataclass(frozen=True)
class Sizes:
    """What a bundle with an assignment takes. stored: bytes on a phone for one ABI, by part ("weights.ptd", ...); peak:
    predicted peak memory, bytes."""

    stored: dict[str, int]
    peak: int

    @property
    def total(self) -> int:
        return sum(self.stored.values())


Measure = Callable[[Mapping[str, StreamCodec]], Sizes]


@dataclass(frozen=True)
class Plan:
    """assignment: codec by tensor name; base_loss: of the uncompressed model, nats per token; losses: predicted
    increase by tensor, nats per token; loss: their sum; sizes: exact, or too high by a few bytes; speed: as
    Budget.min_speed counts it."""

    assignment: Assignment
    base_loss: float
    losses: dict[str, float]
    sizes: Sizes
    speed: float

    @property
    def loss(self) -> float:
        return sum(self.losses.values())

    @property
    def perplexity(self) -> float:
        """Predicted, on the calibration text."""
        return math.exp(self.base_loss + self.loss)


class Planner:
    """Chooses codecs under a budget. Making one does no work yet, so that an impossible budget is refused at once:
    UserError, with the arithmetic, for a size or memory limit that no plan can meet.

    measure: what a bundle with an assignment takes; fixed: codecs that a recipe file sets."""

    def __init__(
        self,
        budget: Budget,
        tensors: Sequence[TensorSpec],
        spec: DecoderSpec,
        fixed: Mapping[str, StreamCodec],
        measure: Measure,
    ) -> None:
        self._budget, self._tensors, self._spec, self._fixed, self._measure = budget, tensors, spec, fixed, measure
        sizes = measure(smallest_assignment(tensors, spec, fixed))
        if budget.max_size is not None and sizes.total > budget.max_size:
            raise _size_is_impossible(budget.max_size, tensors, sizes)
        if budget.max_ram is not None and sizes.peak > budget.max_ram:
            raise BudgetError(
                f"`max_ram` {_mb(budget.max_ram)} cannot be met: the smallest plan ({_mb(sizes.total)} stored) has a "
                f"predicted peak of {_mb(sizes.peak)} (mapped weights, KV cache and scratch memory)",
                "take a smaller model",
                limit="max_ram",
                asked=budget.max_ram,
                best=sizes.peak,
            )

        fastest = 1 / min(rules.decode_cost for rules in all_rules() if rules.decode_cost)
        if budget.min_speed is not None and budget.min_speed > fastest:
            raise BudgetError(
                f"`min_speed` {budget.min_speed:g} cannot be met: the fastest code decodes at {fastest:g} times the "
                f"speed of affine-4bit",
                limit="min_speed",
                asked=budget.min_speed,
                best=fastest,
            )

    def plan(self, losses: Mapping[str, Losses], base_loss: float, exact: Mapping[str, StreamCodec]) -> Plan:
        """The assignment with the least predicted loss within size, memory and speed; with only a perplexity, the
        smallest that is predicted to reach it.

        losses: of every matrix, by name; base_loss: of the uncompressed model, nats per token; exact: codecs that hold
        their tensor without loss. UserError where the budget cannot be met."""
        least = USUAL_SPEED if self._budget.min_speed is None else self._budget.min_speed
        plan = self._priced(0.0, losses, base_loss, exact)
        if plan.speed >= least:
            return plan
        # The dearer time is, the faster the plan: the lowest price at which it is fast enough.
        weights = sum(tensor.rows * tensor.columns for tensor in self._tensors)
        low, high = math.log(1e-6 / weights), math.log(1e3 / weights)
        plan = self._priced(math.exp(high), losses, base_loss, exact)
        if plan.speed < least and self._budget.min_speed is not None:
            raise BudgetError(
                f"`min_speed` {least:g} cannot be met within the other limits: the fastest plan decodes at "
                f"{plan.speed:.2f} of the speed of affine-4bit",
                limit="min_speed",
                asked=least,
                best=plan.speed,
            )
        wanted = min(least, plan.speed)
        for _ in range(_PRICES):
            middle = (low + high) / 2
            trial = self._priced(math.exp(middle), losses, base_loss, exact)
            if trial.speed >= wanted:
                high, plan = middle, trial
            else:
                low = middle
        return plan

    def _priced(
        self, price: float, losses: Mapping[str, Losses], base_loss: float, exact: Mapping[str, StreamCodec]
    ) -> Plan:
        """The plan at a price of time, nats per weight of affine-4bit."""
        budget, fixed = self._budget, self._fixed
        options = _options(self._tensors, self._spec, losses, fixed, exact, price)

        def lost(choice: Choice) -> dict[str, float]:
            costs = {name: options[name][level].loss for name, level in choice.items()}
            costs |= {name: losses.get(name, Losses(0.0)).of(codec.name) for name, codec in fixed.items()}
            chosen = {name: options[name][level].codec for name, level in choice.items()} | dict(fixed)
            return {name: losses.get(name, Losses()).predicted(cost, chosen[name]) for name, cost in costs.items()}

        def assignment(choice: Choice) -> Assignment:
            return _assignment(self._tensors, options, choice, fixed)

        best = allocate(options, lambda choice: self._within(self._measure(assignment(choice))))
        wanted = math.inf if budget.max_perplexity is None else math.log(budget.max_perplexity) - base_loss
        if price == 0 and sum(lost(best).values()) > wanted:
            reached = math.exp(base_loss + sum(lost(best).values()))
            raise BudgetError(
                f"`max_perplexity` {budget.max_perplexity:g} cannot be met"
                + (" within the other limits" if budget.max_size or budget.max_ram else "")
                + f": the uncompressed model has {math.exp(base_loss):.3f} on the calibration text, the best plan a "
                f"predicted {reached:.3f}",
                limit="max_perplexity",
                asked=budget.max_perplexity or 0,
                best=reached,
            )
        if budget.max_perplexity is not None:
            best = cheapest(options, lambda choice: sum(lost(choice).values()) <= wanted)
        chosen = assignment(best)
        return Plan(chosen, base_loss, lost(best), self._measure(chosen), self._speed(chosen))

    def _speed(self, chosen: Assignment) -> float:
        multiplied = [
            tensor for tensor in self._tensors if tensor.role != "vector" and not _looked_up(tensor, self._spec)
        ]
        weights = sum(tensor.rows * tensor.columns for tensor in multiplied)
        return weights / sum(decode_cost(chosen[tensor.name]) * tensor.rows * tensor.columns for tensor in multiplied)

    def check_stored(self, stored: int) -> None:
        """Checks the finished bundle. stored: bytes that it takes on a phone. UserError if they exceed the limit (the
        plan should have prevented that)."""
        limit = self._budget.max_size
        if limit is not None and stored > limit:
            raise BudgetError(
                f"the bundle takes {stored:,} bytes on a phone, more than the {limit:,} allowed",
                "give a smaller `max_size`",
                limit="max_size",
                asked=limit,
                best=stored,
            )

    def _within(self, sizes: Sizes) -> bool:
        size, ram = self._budget.max_size, self._budget.max_ram
        return (size is None or sizes.total <= size) and (ram is None or sizes.peak <= ram)


def smallest_assignment(
    tensors: Sequence[TensorSpec], spec: DecoderSpec, fixed: Mapping[str, StreamCodec]
) -> Assignment:
    """The cheapest candidate for everything that is not fixed; needs no calibration."""
    options = _options(tensors, spec, {}, fixed, {}, 0.0)
    return _assignment(tensors, options, dict.fromkeys(options, 0), fixed)


def _count(weights: int) -> str:
    return f"{weights / 1e9:.3f} billion" if weights >= 1e9 else f"{weights / 1e6:.1f} million"


def _size_is_impossible(limit: int, tensors: Sequence[TensorSpec], smallest: Sizes) -> BudgetError:
    weights = sum(tensor.rows * tensor.columns for tensor in tensors if tensor.source)
    error = max(GAUSSIAN_ERROR.values())
    parts = ", ".join(f"{name} {_mb(size)}" for name, size in smallest.stored.items())
    return BudgetError(
        f"`max_size` {_mb(limit)} cannot be met: that leaves {8 * limit / weights:.4f} bits per weight for "
        f"{_count(weights)} weights. The smallest plan takes {_mb(smallest.total)} ({parts}"
        f"; {8 * smallest.stored['weights.ptd'] / weights:.2f} bits per weight), with a relative squared error of "
        f"{error:.2f}, which costs much of the quality",
        "take a smaller model for a smaller bundle",
        limit="max_size",
        asked=limit,
        best=smallest.total,
        parts=smallest.stored,
    )


def _options(
    tensors: Sequence[TensorSpec],
    spec: DecoderSpec,
    losses: Mapping[str, Losses],
    fixed: Mapping[str, StreamCodec],
    exact: Mapping[str, StreamCodec],
    price: float,
) -> dict[str, list[Candidate]]:
    """Candidates of every tensor that the planner may choose for: all matrices, except the body of a ternary model,
    which is exact already."""
    free = [
        tensor
        for tensor in tensors
        if tensor.role != "vector" and tensor.name not in fixed and not (spec.ternary and tensor.role == "body")
    ]
    return {
        tensor.name: candidates(
            tensor,
            losses.get(tensor.name, Losses()),
            exact.get(tensor.name),
            price,
            _looked_up(tensor, spec),
        )
        for tensor in free
    }


def _looked_up(tensor: TensorSpec, spec: DecoderSpec) -> bool:
    return tensor.role == "embedding" and not spec.tied


def _assignment(
    tensors: Sequence[TensorSpec],
    options: Mapping[str, Sequence[Candidate]],
    choice: Choice,
    fixed: Mapping[str, StreamCodec],
) -> Assignment:
    chosen: Assignment = {}
    for tensor in tensors:
        if tensor.name in fixed:
            chosen[tensor.name] = fixed[tensor.name]
        elif tensor.name in options:
            chosen[tensor.name] = options[tensor.name][choice[tensor.name]].codec
        else:
            chosen[tensor.name] = codec_by_name("f32" if tensor.role == "vector" else "bitnet")
    return chosen


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} kB"
