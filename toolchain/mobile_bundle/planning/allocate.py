"""Allocation: spends bytes where they save the most cost: loss, and the price of time.

The costs of the tensors add up, and the candidates of each form a convex curve. So taking the best step anywhere until
the budget is spent is the optimum of the Lagrangian (Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary
set of quantizers"). What is left over goes to the best steps that still fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from mobile_bundle.planning.candidates import Candidate

Choice = dict[str, int]
"""Number of the candidate that each tensor gets."""


def allocate(options: Mapping[str, Sequence[Candidate]], fits: Callable[[Choice], bool]) -> Choice:
    """The choice with the least cost that fits. options: by tensor, cheapest first, convex.

    fits: whether a choice is within the budget; the cheapest choice must be."""
    steps = _steps(options)
    low, high = 0, len(steps)
    while low < high:  # the longest run of the best steps that fits
        middle = (low + high + 1) // 2
        if fits(_after(options, steps[:middle])):
            low = middle
        else:
            high = middle - 1
    choice = _after(options, steps[:low])
    too_large = math.inf  # bytes that did not fit: nor will more, later
    for name, level in steps[low:]:
        before, after = options[name][level - 1], options[name][level]
        if choice[name] == level - 1 and after.bytes - before.bytes < too_large:
            trial = {**choice, name: level}
            if fits(trial):
                choice = trial
            else:
                too_large = after.bytes - before.bytes
    return choice


def cheapest(options: Mapping[str, Sequence[Candidate]], enough: Callable[[Choice], bool]) -> Choice:
    """The shortest run of the best steps that is good enough; the dearest choice must be."""
    steps = _steps(options)
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        if enough(_after(options, steps[:middle])):
            high = middle
        else:
            low = middle + 1
    return _after(options, steps[:low])


def _steps(options: Mapping[str, Sequence[Candidate]]) -> list[tuple[str, int]]:
    """(tensor, level that it is raised to), the most cost saved per byte first."""
    every = [(name, level) for name, candidates in options.items() for level in range(1, len(candidates))]
    return sorted(every, key=lambda step: (-_gain(options[step[0]], step[1]), step))


def _after(options: Mapping[str, Sequence[Candidate]], steps: Sequence[tuple[str, int]]) -> Choice:
    choice = dict.fromkeys(options, 0)
    for name, level in steps:
        choice[name] = level
    return choice


def _gain(candidates: Sequence[Candidate], level: int) -> float:
    """Cost saved per byte by going from level - 1 to level."""
    before, after = candidates[level - 1], candidates[level]
    return (before.cost - after.cost) / (after.bytes - before.bytes)
