"""The C library's rounding of runs of columns, against propagation.py's own loop over blocks."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import mobile_bundle.native.affine as native_affine
import numpy as np
import pytest
from mobile_bundle.codecs import affine_propagated
from mobile_bundle.codecs.affine import AffineCodec
from mobile_bundle.codecs.propagation import Ordered, energy_order, propagate, refine
from mobile_bundle.native.affine import AffineGrids, round_run

ROOT = Path(__file__).parents[3]


def problem(columns: int, rows: int) -> tuple[np.ndarray, Ordered]:
    """Weights (rows, columns), and a Hessian of inputs that hang together, of very different energy."""
    generator = np.random.default_rng(columns)
    mixed = np.eye(columns) + 0.3 * generator.standard_normal((columns, columns)) / columns**0.5
    inputs = (generator.standard_normal((1000, columns)) @ mixed * np.exp(generator.standard_normal(columns))).astype(
        np.float32
    )
    hessian = inputs.T @ inputs / 1000
    return generator.standard_normal((rows, columns)).astype(np.float32), Ordered.of(hessian, energy_order(hessian))


def grids_of(weight: np.ndarray, ordered: Ordered, group: int) -> AffineGrids:
    """3 bits with offsets, but for one group whose step is 0."""
    groups = -(-weight.shape[1] // group)
    parts = [weight[:, number * group : (number + 1) * group] for number in range(groups)]
    steps = np.stack([(part.max(1) - part.min(1)) / 7 for part in parts]).astype(np.float32)
    steps[-1] = 0
    offsets = np.stack([part.min(1) for part in parts]).astype(np.float32)
    inverse = np.divide(np.float32(1), steps, out=np.zeros_like(steps), where=steps != 0)
    ends = np.zeros(len(weight), np.float32), np.full(len(weight), 7, np.float32)
    return AffineGrids((ordered.order // group).astype(np.uint32), steps, offsets, inverse, *ends)


def by_library(weight: np.ndarray, ordered: Ordered, grids: AffineGrids) -> tuple[np.ndarray, np.ndarray]:
    own = np.ascontiguousarray(weight.T[ordered.order])
    work, codes = own.copy(), np.empty_like(own)
    affine_propagated._propagate(work, ordered.factor, grids, codes)
    affine_propagated._refine(own, work, ordered.damped, grids, codes, 3)
    return work, codes


def by_numpy(weight: np.ndarray, ordered: Ordered, grids: AffineGrids) -> tuple[np.ndarray, np.ndarray]:
    own = np.ascontiguousarray(weight.T[ordered.order])
    work, codes = own.copy(), np.empty_like(own)

    def quantise(number: int, block: np.ndarray, _: np.ndarray) -> np.ndarray:
        at = grids.at[number]
        code = np.clip(np.rint((block[0] - grids.offsets[at]) * grids.inverse[at]), grids.lows, grids.highs)
        codes[number] = code
        return (code * grids.steps[at] + grids.offsets[at])[None]

    single = [(column, column + 1) for column in range(len(work))]
    propagate(work, ordered.factor, single, quantise)
    refine(own, work, ordered.damped, single, quantise)
    return work, codes


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (64, 64), (65, 3), (200, 130)])
def test_the_bits_are_numpys(columns: int, rows: int) -> None:
    weight, ordered = problem(columns, rows)
    grids = grids_of(weight, ordered, 32)
    for found, expected in zip(by_library(weight, ordered, grids), by_numpy(weight, ordered, grids), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["MB_PORTABLE_SEARCH", "MB_AVX2_SEARCH"])
def test_other_processors_give_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The loop without AVX2, and without AVX-512, built by itself."""
    library, runtime = tmp_path / "portable.so", ROOT / "runtime"
    sources = [
        runtime / name for name in ("search/affine_round.c", "base/error.c", "base/one_line.c", "base/unicode.c")
    ]
    folders = [f"-I{runtime}", f"-I{runtime / 'include'}"]
    options = ["-std=c11", "-D_GNU_SOURCE", f"-D{kind}", "-O2", "-ffp-contract=off", "-fPIC", "-shared"]
    subprocess.run(["cc", *options, *folders, *sources, "-o", library, "-lm", "-lpthread"], check=True)
    weight, ordered = problem(200, 70)
    grids = grids_of(weight, ordered, 64)
    fast = by_library(weight, ordered, grids)
    portable = ctypes.CDLL(os.fspath(library))
    portable.mb_affine_round_run.argtypes = native_affine._library().mb_affine_round_run.argtypes
    monkeypatch.setattr(native_affine, "_library", lambda: portable)
    for found, expected in zip(by_library(weight, ordered, grids), fast, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_does_not_go_together_is_refused() -> None:
    weight, ordered = problem(64, 8)
    grids = grids_of(weight, ordered, 32)
    work, codes = np.ascontiguousarray(weight.T), np.empty((64, 8), np.float32)
    with pytest.raises(ValueError, match="does not go with"):
        round_run(work[:, :4], None, ordered.factor, 0, grids, codes[:, :4])
    with pytest.raises(ValueError, match="does not go with"):
        round_run(work, None, ordered.factor, 1, grids, codes)
    missing = AffineGrids(grids.at + np.uint32(5), grids.steps, grids.offsets, grids.inverse, grids.lows, grids.highs)
    with pytest.raises(ValueError, match="missing"):
        round_run(work, None, ordered.factor, 0, missing, codes)


def test_a_codec_codes_as_its_trial_said() -> None:
    """try_grids is fit_propagated without refining, so its errors are a little larger."""
    weight, ordered = problem(128, 16)
    rounding = affine_propagated.Rounding.of(ordered.hessian)
    grid = AffineCodec(3, 64, False).grid
    tried = affine_propagated.try_grids(weight, rounding, [grid])[0] - weight
    coded = affine_propagated.fit_propagated(weight, rounding, grid).values - weight
    before, after = (float(np.einsum("rc,cd,rd->", each, ordered.hessian, each)) for each in (tried, coded))
    assert 0.7 * before < after < before
