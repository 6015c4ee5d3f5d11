"""What SeedLM's searches share, and their definition in NumPy: the pseudo-random numbers and the tables per seed.

Method: Shafipour et al. 2024, "SeedLM: Compressing LLM Weights into Seeds of Pseudo-Random Generators"
(arXiv:2410.10714), section 3. A block b of C weights becomes a seed, P coefficients q of 4 bits and an exponent e:
b[i] = 2^e * sum over p of U[i][p] * q[p]; U holds the C * P states that a linear feedback shift register goes through
after the seed. Two things are not as printed, as published reproductions found them to cost a third of the quality:
weights are scaled to unit size first, and the exponent is ceil(log2(max|t| / 7.5)), which uses all of the 16 codes.

Three implementations give the same bits: `search_reference` here (slow), runtime/search/seedlm_search.c (AVX2, threads)
and seedlm_gpu.py (torch). The arithmetic that decides is in runtime/search/seedlm_search.h; it takes its tables from
here, where they are made by element-wise float64 operations alone, so that they are the same on every machine.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.native.search import Found, Tables

SEEDS = 65535
PLACES = 65536
"""Positions on the cycle of states, rounded up: MB_SEEDLM_PLACES."""
STATES = 65600
"""Places, and room for the block of the last: MB_SEEDLM_STATES."""
TAPS = (0, 1, 3, 12)
MAX_CONDITION = 100.0
SHAPES = {4: (8, 3), 3: (12, 4)}
"""Bits per weight: weights of a block, coefficients."""


def lfsr_states(seed: int, count: int, bits: int = 16, taps: tuple[int, ...] = TAPS) -> NDArray[np.int64]:
    """The `count` states after `seed` (1..2**bits - 1) of a Fibonacci register: int64 (count,).

    The exclusive or of the tapped bits enters at the top; a state is recorded after the shift."""
    if not 0 < seed < 1 << bits:
        raise ValueError(f"a seed of {bits} bits is 1..{(1 << bits) - 1}, not {seed}")
    states = np.empty(count, np.int64)
    state = seed
    for i in range(count):
        bit = 0
        for tap in taps:
            bit ^= state >> tap & 1
        state = state >> 1 | bit << (bits - 1)
        states[i] = state
    return states


@functools.cache
def cycle() -> NDArray[np.uint16]:
    """All 65,535 states in their order, from 1 on: uint16 (SEEDS,)."""
    return np.concatenate([[1], lfsr_states(1, SEEDS - 1)]).astype(np.uint16)


@functools.cache
def place_of() -> NDArray[np.uint16]:
    """The position on the cycle of every state: uint16 (65536,); that of the impossible state 0 is 0."""
    places = np.zeros(PLACES, np.uint16)
    places[cycle()] = np.arange(SEEDS, dtype=np.uint16)
    return places


def random_matrices(seeds: NDArray[np.uint16], length: int, coefficients: int) -> NDArray[np.int32]:
    """U of every seed, int32 (n, length, coefficients): state - 32768, row by row."""
    states = cycle()[(np.arange(length * coefficients) + 1 + place_of()[seeds][:, None].astype(np.int64)) % SEEDS]
    return (states.astype(np.int32) - 32768).reshape(-1, length, coefficients)


@functools.cache
def tables(bits: int) -> Tables:
    """The tables for 4 or 3 bits per weight (SHAPES). Takes about a second, once."""
    length, count = SHAPES[bits]
    u = random_matrices(cycle(), length, count).astype(np.float64)
    singular = np.linalg.svd(u, compute_uv=False)
    conditions = singular[:, 0] / singular[:, -1]
    used = conditions <= MAX_CONDITION  # no condition number is anywhere near the limit, so rounding decides nothing
    factors = np.zeros((PLACES, count * (count + 1) // 2))
    factors[:SEEDS][used] = _inverse_cholesky(u[used])
    seeds = np.zeros(PLACES, np.uint16)
    seeds[:SEEDS] = np.where(used, cycle(), 0)
    states = (np.resize(cycle(), STATES).astype(np.int32) - 32768).astype(np.float32)
    bounds = np.ascontiguousarray(factors.astype(np.float32).reshape(PLACES // 8, 8, -1).transpose(0, 2, 1))
    return Tables(length, count, states, seeds, factors, bounds, float(singular[used, -1].min()), conditions)


def _inverse_cholesky(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """L^-1 with L L' = U'U, its lower triangle row by row: u (n, C, P) to (n, P * (P + 1) / 2).

    Element by element, in this order: NumPy's products and solvers differ in the last bit between machines."""
    n, _, count = u.shape
    gram = [[_sum_in_order(u[:, :, p] * u[:, :, k]) for k in range(count)] for p in range(count)]
    lower = [[np.zeros(n)] * count for _ in range(count)]
    inverse = [[np.zeros(n)] * count for _ in range(count)]
    for p in range(count):
        for k in range(p + 1):
            rest = gram[p][k]
            for j in range(k):
                rest = rest - lower[p][j] * lower[k][j]
            lower[p][k] = np.sqrt(rest) if k == p else rest / lower[k][k]
    for p in range(count):
        inverse[p][p] = 1.0 / lower[p][p]
        for k in range(p):
            total = np.zeros(n)
            for j in range(k, p):
                total = total + lower[p][j] * inverse[j][k]
            inverse[p][k] = -total / lower[p][p]
    return np.stack([inverse[p][k] for p in range(count) for k in range(p + 1)], axis=1)


def _sum_in_order(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, m) to (n,), from the first to the last."""
    total = np.zeros(len(values))
    for i in range(values.shape[1]):
        total = total + values[:, i]
    return total


def search_reference(blocks: NDArray[np.float32], bits: int) -> Found:
    """The definition: every seed is evaluated for every block. Some 30 ms a block.

    blocks: float32 (n, C), scaled so that S * 2^e stands for a weight (seedlm.py)."""
    table = tables(bits)
    order = np.argsort(table.seeds, kind="stable")
    places = order[table.seeds[order] > 0]  # by seed, so that the first of equal errors is the lowest seed
    windows = places[:, None] + 1 + np.arange(table.length * table.coefficients)
    u = table.states[windows].astype(np.float64).reshape(-1, table.length, table.coefficients)
    factors = table.factors[places]
    found = Found(
        np.empty(len(blocks), np.uint16),
        np.empty(len(blocks), np.int8),
        np.empty((len(blocks), table.coefficients), np.int8),
        len(places) * len(blocks),
    )
    for row, block in enumerate(blocks.astype(np.float64)):
        error, exponent, q = _evaluate(u, factors, block)
        best = int(np.argmin(error))
        found.seeds[row] = table.seeds[places[best]]
        found.exponents[row] = exponent[best]
        found.coefficients[row] = q[best]
    return found


def _evaluate(
    u: NDArray[np.float64], factors: NDArray[np.float64], block: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Error (n,), exponent (n,) and coefficients (n, P) of n seeds for one block, as seedlm_search.h says."""
    n, _, count = u.shape
    c = [_sum_in_order(block * u[:, :, p]) for p in range(count)]
    z, t = [], []
    for p in range(count):
        z.append(_sum_in_order(np.stack([factors[:, p * (p + 1) // 2 + k] * c[k] for k in range(p + 1)], axis=1)))
    for p in range(count):
        t.append(_sum_in_order(np.stack([factors[:, k * (k + 1) // 2 + p] * z[k] for k in range(p, count)], axis=1)))
    largest = np.abs(np.stack(t)).max(axis=0)
    exponent = np.full(n, -8)
    for k in range(-8, 7):
        exponent += largest > 7.5 * 2.0**k
    q = np.stack([np.clip(np.rint(np.ldexp(each, -exponent)), -8, 7) for each in t], axis=1)
    difference = block - np.ldexp((u * q[:, None, :]).sum(axis=2), exponent[:, None])  # the sum is exact
    return _sum_in_order(np.square(difference)), exponent, q
