"""Trellis codes: the search finds the best way, with and without propagated errors, on every processor."""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.codecs import codec_by_name
from mobile_bundle.codecs.affine import AffineCodec
from mobile_bundle.codecs.stats import Stats
from mobile_bundle.codecs.trellis import _values
from mobile_bundle.codecs.trellis_fit import PLACES, _circle_order
from mobile_bundle.native import trellis as native_trellis
from mobile_bundle.native.trellis import search_circles, search_trellis
from numpy.typing import NDArray
from support.paths import ROOT

Floats = NDArray[np.float32]


def gaussian(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def upper(seed: int) -> Floats:
    factor = np.triu(gaussian(16, 16, seed=seed) * np.float32(0.2))
    factor[np.diag_indices(16)] = np.random.default_rng(seed).uniform(0.5, 2, 16)
    return factor


def loss(weights: Floats, levels: NDArray[np.int8], steps: Floats, factor: Floats) -> Floats:
    error = np.linalg.solve(factor.T.astype(np.float64), (weights - levels * steps[:, None]).T.astype(np.float64))
    return np.square(error).sum(0).astype(np.float32)


@pytest.mark.parametrize("bits", [2, 2.5, 3])
def test_levels_are_what_the_codes_windows_say(bits: float) -> None:
    codes, levels = search_trellis(bits, gaussian(100, 16), np.full(100, 0.2, np.float32), np.eye(16, dtype="f4"))
    assert codes[:, 0::2].max() < 1 << math.ceil(bits)
    assert codes[:, 1::2].max() < 1 << math.floor(bits)
    by_column = codes[:, PLACES]  # the permutation is its own inverse
    np.testing.assert_array_equal(_values(by_column, bits), levels[:, PLACES])


@pytest.mark.parametrize("bits", [2, 2.5, 3])
def test_no_way_round_a_short_circle_is_better(bits: float) -> None:
    """Only three neighbouring weights of the circle matter: then all ways can be tried."""
    factor = np.diag(np.where(np.arange(16) < 3, 1, np.inf)).astype(np.float32)
    weights, steps = gaussian(50, 16), np.full(50, 0.17, np.float32)
    _, levels = search_trellis(bits, weights, steps, factor)
    found = np.square(weights - levels * steps[:, None])[:, :3].sum(1)
    own = [range(1 << (math.ceil(bits) if place % 2 == 0 else math.floor(bits))) for place in range(3)]
    before = [(0, 2)] * 3  # their upper bits alone
    ways = np.array(list(itertools.product(*before, *own)), np.uint8)
    codes = np.zeros((len(ways), 16), np.uint8)
    codes[:, -3:], codes[:, :3] = ways[:, :3], ways[:, 3:]
    values = _values(codes[:, PLACES], bits)[:, PLACES][:, :3] * np.float32(0.17)
    least = np.square(weights[:, None, :3] - values).sum(2).min(1)
    np.testing.assert_allclose(found, least, rtol=1e-5)


@pytest.mark.parametrize("bits", [2, 2.5, 3])
def test_errors_that_propagate_are_minded(bits: float) -> None:
    """The way that is best by itself loses more once the factor couples the weights."""
    weights, steps, factor = gaussian(300, 16), np.full(300, 0.2, np.float32), upper(3)
    _, minded = search_trellis(bits, weights, steps, factor)
    _, plain = search_trellis(bits, weights, steps, np.diag(factor.diagonal()))
    assert loss(weights, minded, steps, factor).mean() < 0.9 * loss(weights, plain, steps, factor).mean()


def test_threads_and_neighbours_change_nothing() -> None:
    weights, steps, factor = gaussian(700, 16), np.abs(gaussian(700, seed=1)) * np.float32(0.2), upper(1)
    for bits in (2, 2.5, 3):
        expected = search_trellis(bits, weights, steps, factor)
        for part in (
            search_trellis(bits, weights, steps, factor, 3),
            search_trellis(bits, weights[5:9], steps[5:9], factor),
        ):
            rows = slice(None) if len(part[0]) == 700 else slice(5, 9)
            np.testing.assert_array_equal(part[0], expected[0][rows])
            np.testing.assert_array_equal(part[1], expected[1][rows])


def test_other_processors_find_the_same_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search without AVX2, built by itself."""
    library, runtime = tmp_path / "portable.so", ROOT / "runtime"
    base = (f"base/{name}.c" for name in ("thread_pool", "error", "one_line", "unicode"))
    sources = [runtime / name for name in ("search/trellis_search.c", *base)]
    folders = [f"-I{runtime}", f"-I{runtime / 'include'}"]
    options = ["-std=c11", "-D_GNU_SOURCE", "-DMB_PORTABLE_SEARCH", "-O2", "-ffp-contract=off", "-fPIC", "-shared"]
    subprocess.run(["cc", *options, *folders, *sources, "-o", library, "-lpthread"], check=True)
    weights, steps, factor = gaussian(100, 16), np.full(100, 0.2, np.float32), upper(2)
    fast = [search_trellis(bits, weights, steps, factor) for bits in (2, 2.5, 3)]
    portable = ctypes.CDLL(os.fspath(library))
    portable.mb_trellis_search.argtypes = native_trellis._library().mb_trellis_search.argtypes
    monkeypatch.setattr(native_trellis, "_library", lambda: portable)
    for bits, (codes, levels) in zip((2, 2.5, 3), fast, strict=True):
        again = search_trellis(bits, weights, steps, factor)
        np.testing.assert_array_equal(again[0], codes)
        np.testing.assert_array_equal(again[1], levels)


def test_what_does_not_go_together_is_refused() -> None:
    good = gaussian(4, 16), np.ones(4, np.float32), np.eye(16, dtype=np.float32)
    for bad in ((good[0][:, :15], *good[1:]), (good[0], good[1][:3], good[2]), (*good[:2], good[2][:8])):
        with pytest.raises(ValueError, match="do not go together"):
            search_trellis(2, *bad)
    with pytest.raises(ValueError, match="NaN"):
        search_trellis(2, good[0] * np.float32(np.nan), *good[1:])


def test_columns_are_ordered_by_blocks_and_round_the_circle() -> None:
    order = _circle_order(np.array([*range(32, 40), *range(16), *range(16, 32)], np.intp))
    assert order[:8].tolist() == [32, 36, 33, 37, 34, 38, 35, 39]
    assert order[8:14].tolist() == [0, 4, 8, 12, 1, 5]
    assert sorted(order.tolist()) == list(range(40))


@pytest.mark.parametrize("columns", [64, 200])
def test_calibrated_it_beats_rounding_of_the_same_bits(columns: int) -> None:
    """The loss of a layer's output, tr(D H D'), on inputs that are correlated and unequally large."""
    generator = np.random.default_rng(5)
    inputs = generator.standard_normal((4000, columns)) @ generator.standard_normal((columns, columns))
    inputs *= generator.lognormal(0, 0.5, columns)
    hessian = (inputs.T @ inputs / len(inputs)).astype(np.float32)
    weight = gaussian(64, columns)

    def lost(name: str, stats: Stats | None) -> float:
        codec = codec_by_name(name)
        difference = (codec.decode(codec.encode(weight, stats)) - weight).astype(np.float64)
        return float(np.einsum("rc,cd,rd->", difference, hessian, difference))

    for bits in (2, 2.5, 3):
        calibrated = lost(f"trellis-{bits}bit-g64", Stats(hessian=hessian))
        assert calibrated < 0.7 * lost(f"trellis-{bits}bit-g64", None)
        share = {2: 0.67, 2.5: 0.37, 3: 0.9}[bits]
        assert calibrated < share * lost(AffineCodec(int(bits), 64, False).name, Stats(hessian=hessian))


@pytest.mark.parametrize("bits", [2, 2.5, 3])
def test_circles_side_by_side_are_those_alone(bits: float) -> None:
    generator = np.random.default_rng(5)
    weights = generator.standard_normal((3, 20, 16)).astype(np.float32)
    steps = np.linspace(0.05, 0.3, 20, dtype=np.float32)
    factors = np.stack([np.diag(np.exp(generator.standard_normal(16))) for _ in range(3)]).astype(np.float32)
    factors[1, 3, 3] = np.inf
    codes, levels = search_circles(bits, weights, steps, factors)
    for number in range(3):
        own = search_trellis(bits, weights[number], steps, factors[number])
        np.testing.assert_array_equal(codes[number], own[0])
        np.testing.assert_array_equal(levels[number], own[1])
    with pytest.raises(ValueError, match="do not go together"):
        search_circles(bits, weights, steps, factors[:2])
