"""Coding with the Hessian in a tensor: the way of a GPU, here with torch's tensors of the processor."""

from __future__ import annotations

import numpy as np
import pytest
from mobile_bundle.codecs import Stats, codec_by_name
from mobile_bundle.codecs.matrices import beside, on_host, times
from mobile_bundle.codecs.propagation import energy_order, inverse_factor, squares_of_runs
from mobile_bundle.codecs.registry import GAUSSIAN_ERROR, try_candidates

torch = pytest.importorskip("torch")


def problem(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, Hessian and drift of inputs that depend on each other, some of them far larger than others."""
    generator = np.random.default_rng(3)
    x = generator.standard_normal((4 * columns, columns)) @ generator.standard_normal((columns, columns))
    x *= np.exp(generator.standard_normal(columns))
    hessian = x.T @ x / len(x)
    drift = 0.01 * generator.standard_normal((columns, columns))
    weight = generator.standard_normal((rows, columns))
    return weight.astype(np.float32), hessian.astype(np.float32), drift.astype(np.float32)


@pytest.mark.parametrize(
    "name",
    [
        "affine-4bit",
        "affine-2bit",
        "affine-8bit",
        "trellis-2bit",
        "trellis-2.5bit",
        "trellis-3bit-g32",
        "vptq-2bit",
        "vptq-v4-b8-r8-o2",
    ],
)
def test_codes_are_those_of_arrays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for near ties that rounding decides, and what follows from them in the same row. In several threads, a few
    rows in each."""
    monkeypatch.setattr("mobile_bundle.codecs.chunks._GPU_AT_ONCE", 32)
    weight, hessian, drift = problem(96, 200)
    codec = codec_by_name(name)
    decoded = []
    for stats in (
        Stats(hessian=hessian, drift=drift),
        Stats(hessian=torch.from_numpy(hessian.copy()), drift=torch.from_numpy(drift.copy())),
    ):
        decoded.append(codec.decode(codec.encode(weight, stats)))
    target = weight + weight @ drift
    losses = [np.einsum("rc,cd,rd->r", each - target, hessian, each - target) for each in decoded]
    np.testing.assert_allclose(losses[1].sum(), losses[0].sum(), rtol=2e-3)
    same = np.isclose(decoded[0], decoded[1], rtol=1e-3, atol=1e-6).all(axis=1)
    assert same.mean() > 0.9, f"{same.mean():.3f} of the rows have the same codes"


def test_trials_are_those_of_arrays() -> None:
    """What a plan is made from."""
    weight, hessian, _ = problem(48, 128)
    found = [try_candidates(weight, each, GAUSSIAN_ERROR) for each in (hessian, torch.from_numpy(hessian.copy()))]
    assert found[0].keys() == found[1].keys() == GAUSSIAN_ERROR.keys()
    for name, errors in found[0].items():
        np.testing.assert_allclose(found[1][name].sum(), errors.sum(), rtol=5e-3, err_msg=name)


@pytest.mark.parametrize("widths", [[1] * 150, [16] * 9 + [6], [3, *[16] * 9, 3], [100, 50]])
def test_what_runs_need_comes_over_at_once(widths: list[int]) -> None:
    """Runs of single columns, of circles, with outliers before them, and of blocks wider than a run."""
    _, hessian, _ = problem(1, sum(widths))
    ends = np.cumsum(widths).tolist()
    blocks = list(zip([0, *ends[:-1]], ends, strict=True))
    here = squares_of_runs(hessian, blocks)
    there = squares_of_runs(torch.from_numpy(hessian), blocks)
    assert list(here) == list(there)
    starts = [blocks[first][0] for first in here]
    for start, stop, own, other in zip(starts, [*starts[1:], ends[-1]], here.values(), there.values(), strict=True):
        np.testing.assert_array_equal(own, hessian[start:stop, start:stop])
        np.testing.assert_array_equal(own, other)


def test_factors_are_those_of_arrays() -> None:
    _, hessian, _ = problem(1, 150)
    order = energy_order(hessian, 4)
    tensor = torch.from_numpy(hessian)
    np.testing.assert_array_equal(energy_order(tensor, 4), order)
    for quick, error in ((False, 1e-6), (True, 1e-3)):
        factor = inverse_factor(hessian, order, quick)
        found = inverse_factor(tensor, order, quick)
        assert isinstance(found, torch.Tensor)
        assert found.dtype == torch.float32
        assert np.linalg.norm(found.numpy() - factor) < error * np.linalg.norm(factor)
    damaged = tensor.clone()
    damaged[3, 4] = torch.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        inverse_factor(damaged)


def test_a_quick_factor_that_float32_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    _, hessian, _ = problem(1, 80)
    exact = inverse_factor(torch.from_numpy(hessian))
    whole_cholesky = torch.linalg.cholesky_ex

    def fails(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        factor, failed = whole_cholesky(matrix)
        return factor, failed + (matrix.dtype == torch.float32)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", fails)
    np.testing.assert_array_equal(inverse_factor(torch.from_numpy(hessian), quick=True), exact)


def test_nothing_is_shared_with_a_tensor() -> None:
    """What comes over is a copy on every device, so that the processor's tensors behave as a GPU's."""
    tensor, array = torch.zeros(3, 2), np.ones((3, 2), np.float32)
    on_host(tensor)[:] = 5
    beside(array, tensor)[:] = 7
    assert (tensor == 0).all()
    assert (array == 1).all()
    assert on_host(array) is array
    assert beside(array, array) is array
    np.testing.assert_allclose(times(array, torch.eye(2)), array)
