"""SeedLM's exact search in torch, for a GPU: the same result as seedlm_search.search_reference, bit for bit.

For a batch of blocks one matrix product correlates every block with the whole cycle of states, which bounds every seed
(runtime/search/seedlm_search.h says how). The best bound of each of 64 stretches of the cycle is evaluated exactly; its
error rules out all but a handful of the other seeds, and those are evaluated. Evaluation is element by element in
float64 and in the written order, which no device rounds differently.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.codecs.seedlm_search import PLACES, tables
from mobile_bundle.errors import ArgumentError, InstallationError
from mobile_bundle.native.search import Found

if TYPE_CHECKING:
    from torch import Tensor

STRETCHES = 64
ALLOWANCE = 2.5e-4
"""Error of a float32 bound, relative to |b|^2 (seedlm_search.c derives it)."""
BATCH = {"cuda": 1024, "cpu": 16}
"""Blocks that are bounded at once: four arrays of 256 KiB for each."""
EVALUATED_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class _DeviceTables:
    """Tables on the device. shifted: float32 (C, PLACES + P - 1), the states that weight i meets; bounds: float32
    (P * (P + 1) / 2, PLACES); states: float64; factors: float64 (PLACES, P * (P + 1) / 2); seeds: int64 (PLACES,)."""

    length: int
    coefficients: int
    smallest: float
    lowest_seed: int
    shifted: Tensor
    bounds: Tensor
    states: Tensor
    factors: Tensor
    seeds: Tensor


@dataclass
class _Best:
    """The best seeds so far of a batch of n blocks. error: float64 (n,); seed, exponent: int64 (n,); q: (n, P)."""

    error: Tensor
    seed: Tensor
    exponent: Tensor
    q: Tensor


def search_torch(blocks: NDArray[np.float32], bits: int, device: str) -> Found:
    """blocks: float32 (n, C), finite, as search_reference takes them; device: "cuda", "cuda:1", "cpu", ...

    UserError when torch is missing or has no such device."""
    table = _device_tables(bits, device)
    import torch

    size = BATCH.get(torch.device(device).type, BATCH["cpu"])
    parts, evaluated = [], 0
    with _full_precision(), torch.inference_mode():
        for begin in range(0, len(blocks), size):
            batch = torch.from_numpy(np.ascontiguousarray(blocks[begin : begin + size], np.float32)).to(device)
            best, count = _search_batch(table, batch)
            parts.append((best.seed.cpu().numpy(), best.exponent.cpu().numpy(), best.q.cpu().numpy()))
            evaluated += count
    seeds, exponents, coefficients = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Found(seeds.astype(np.uint16), exponents.astype(np.int8), coefficients.astype(np.int8), evaluated)


@contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32 in float32 products, which the allowance does not cover."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def _device_tables(bits: int, device: str) -> _DeviceTables:
    """UserError where torch or the device is missing."""
    try:
        import torch
    except ImportError as error:
        raise InstallationError(
            "SeedLM's search on a GPU needs torch", "pip install '.[calibrate]' in a checkout of mobile-bundle"
        ) from error
    table = tables(bits)
    width = PLACES + table.coefficients - 1
    begins = 1 + table.coefficients * np.arange(table.length)
    shifted = np.stack([table.states[begin : begin + width] for begin in begins])
    bounds = np.ascontiguousarray(table.factors.T.astype(np.float32))
    try:
        arrays = [
            torch.from_numpy(array).to(device)
            for array in (
                shifted,
                bounds,
                table.states.astype(np.float64),
                table.factors,
                table.seeds.astype(np.int64),
            )
        ]
    except (RuntimeError, AssertionError) as error:  # torch raises both for a device that is not there
        raise ArgumentError(f"torch cannot use the device {device!r}: {str(error).splitlines()[0]}") from error
    lowest = int(table.seeds[table.seeds > 0].min())
    return _DeviceTables(table.length, table.coefficients, table.smallest, lowest, *arrays)


def _search_batch(table: _DeviceTables, blocks: Tensor) -> tuple[_Best, int]:
    """Blocks (n, C) to their best seeds, and how many were evaluated."""
    import torch

    n = len(blocks)
    scores = _bounds(table, blocks)
    norm = blocks.double().square().sum(dim=1)
    # Where every coefficient of every seed rounds to zero all seeds are equal, and the lowest one stands.
    vanishes = norm.sqrt() < table.smallest * 2.0**-9 * (1 - 1e-9)
    best = _Best(
        torch.full((n,), torch.inf, dtype=torch.float64, device=blocks.device),
        torch.full((n,), table.lowest_seed, dtype=torch.int64, device=blocks.device),
        torch.full((n,), -8, dtype=torch.int64, device=blocks.device),
        torch.zeros((n, table.coefficients), dtype=torch.int64, device=blocks.device),
    )
    stretch = PLACES // STRETCHES
    promising = scores.view(n, STRETCHES, stretch).argmax(dim=2)
    promising += torch.arange(0, PLACES, stretch, device=blocks.device)
    rows = torch.arange(n, device=blocks.device)[:, None].expand(n, STRETCHES)
    real = ~vanishes[:, None].expand(n, STRETCHES)
    evaluated = _evaluate_all(table, blocks, rows[real], promising[real], best)
    needed = torch.where(vanishes, torch.inf, norm * (1 - ALLOWANCE) - best.error).float()
    scores.scatter_(1, promising, -torch.inf)  # done already
    rows, places = torch.nonzero(scores >= needed[:, None], as_tuple=True)
    return best, evaluated + _evaluate_all(table, blocks, rows, places, best)


def _bounds(table: _DeviceTables, blocks: Tensor) -> Tensor:
    """|z|^2 of every block and place: float32 (n, PLACES)."""
    import torch

    c = blocks @ table.shifted
    scores = torch.zeros((len(blocks), PLACES), dtype=torch.float32, device=blocks.device)
    row = 0
    for p in range(table.coefficients):
        z = table.bounds[row] * c[:, :PLACES]
        for k in range(1, p + 1):
            z.addcmul_(table.bounds[row + k], c[:, k : k + PLACES])
        scores.addcmul_(z, z)
        row += p + 1
    return scores


def _evaluate_all(table: _DeviceTables, blocks: Tensor, rows: Tensor, places: Tensor, best: _Best) -> int:
    """Evaluates place places[i] for block rows[i], improves `best`, gives how many there were."""
    used = table.seeds[places] > 0
    rows, places = rows[used], places[used]
    for begin in range(0, len(rows), EVALUATED_AT_ONCE):
        here = slice(begin, begin + EVALUATED_AT_ONCE)
        _improve(best, rows[here], table.seeds[places[here]], *_evaluate(table, blocks[rows[here]], places[here]))
    return len(rows)


def _evaluate(table: _DeviceTables, blocks: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Error float64 (m,), exponent int64 (m,) and coefficients int64 (m, P) of m pairs; blocks (m, C)."""
    import torch

    count = table.coefficients
    b = blocks.double()
    window = torch.arange(1, table.length * count + 1, device=b.device)
    u = table.states[places[:, None] + window].view(-1, table.length, count)
    factors = table.factors[places]
    c, z, t = [], [], []
    for p in range(count):
        c.append(_sum_in_order([b[:, i] * u[:, i, p] for i in range(table.length)]))
    for p in range(count):
        z.append(_sum_in_order([factors[:, p * (p + 1) // 2 + k] * c[k] for k in range(p + 1)]))
    for p in range(count):
        t.append(_sum_in_order([factors[:, k * (k + 1) // 2 + p] * z[k] for k in range(p, count)]))
    coefficients = torch.stack(t, dim=1)
    largest = coefficients.abs().amax(dim=1)
    exponent = torch.zeros_like(places)  # e + 8
    for k in range(-8, 7):
        exponent += largest > 7.5 * 2.0**k
    powers = torch.tensor([2.0**k for k in range(-8, 9)], dtype=torch.float64, device=b.device)
    q = (coefficients * powers[16 - exponent][:, None]).round_().clamp_(-8, 7)
    sums = (u * q[:, None, :]).sum(dim=2)  # whole numbers: exact in any order
    difference = b - sums * powers[exponent][:, None]
    difference *= difference
    return _sum_in_order(list(difference.unbind(dim=1))), exponent - 8, q.long()


def _sum_in_order(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _improve(best: _Best, rows: Tensor, seeds: Tensor, error: Tensor, exponent: Tensor, q: Tensor) -> None:
    """Puts each block's least error, and of equal errors the lowest seed, into `best` where it is better."""
    import torch

    least = torch.full_like(best.error, torch.inf).scatter_reduce_(0, rows, error, "amin")
    lowest = torch.full_like(best.seed, PLACES)
    ties = error == least[rows]
    lowest.scatter_reduce_(0, rows[ties], seeds[ties], "amin")
    wins = (least < best.error) | ((least == best.error) & (lowest < best.seed))
    chosen = ties & (seeds == lowest[rows]) & wins[rows]
    block = rows[chosen]
    best.error[block] = error[chosen]
    best.seed[block] = seeds[chosen]
    best.exponent[block] = exponent[chosen]
    best.q[block] = q[chosen]
