"""Error propagation and what comes after it, against the loss that they are to make small."""

from __future__ import annotations

import numpy as np
import pytest
from mobile_bundle.codecs.propagation import Ordered, energy_order, inverse_factor, propagate, refine


def problem() -> tuple[np.ndarray, Ordered]:
    """Weights (rows, columns), and a Hessian of inputs that hang together, of very different energy."""
    generator = np.random.default_rng(7)
    mixed = np.eye(96) * 3 + 0.3 * generator.standard_normal((96, 96))
    mixed *= np.exp(0.5 * generator.standard_normal(96))
    inputs = (generator.standard_normal((2000, 96)) @ mixed).astype(np.float32)
    hessian = inputs.T @ inputs / 2000
    weight = generator.standard_normal((40, 96)).astype(np.float32)
    return weight, Ordered.of(hessian, energy_order(hessian))


def loss(weight: np.ndarray, values: np.ndarray, ordered: Ordered) -> float:
    difference = (values - weight).astype(np.float64)
    return float(np.einsum("cr,cd,dr->", difference, ordered.damped.astype(np.float64), difference))


def whole(number: int, block: np.ndarray, factor: np.ndarray) -> np.ndarray:
    return np.rint(block * 2) / np.float32(2)


@pytest.mark.parametrize("width", [1, 4])
def test_refining_ends_where_no_single_block_can_improve(width: int) -> None:
    """So the slopes that it keeps are true: a fresh look at the result finds nothing better."""
    weight, ordered = problem()
    columns = np.ascontiguousarray(weight.T[ordered.order])
    blocks = [(begin, begin + width) for begin in range(0, 96, width)]
    values = columns.copy()
    propagate(values, ordered.factor, blocks, whole)
    rounded = loss(columns, np.rint(columns * 2) / 2, ordered)
    propagated = loss(columns, values, ordered)
    refine(columns, values, ordered.damped, blocks, whole)
    refined = loss(columns, values, ordered)
    assert propagated < 0.5 * rounded
    assert refined < 0.995 * propagated
    assert (values == whole(0, values, values)).all()
    for _ in range(3):
        refine(columns, values, ordered.damped, blocks, whole)
    settled = values.copy()
    refine(columns, settled, ordered.damped, blocks, whole)
    np.testing.assert_array_equal(settled, values)
    assert loss(columns, values, ordered) <= refined


def test_the_quick_factor_is_nearly_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ordered = problem()
    exact, quick = (inverse_factor(ordered.hessian, quick=quick) for quick in (False, True))
    expected = np.linalg.inv(ordered.hessian + 0.01 * np.diag(np.full(96, ordered.hessian.diagonal().mean())))
    np.testing.assert_allclose(exact.T @ exact, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(quick, exact, rtol=1e-3, atol=1e-4 * np.abs(exact).max())
    assert (exact != quick).any()
    whole_cholesky = np.linalg.cholesky

    def fails(matrix: np.ndarray) -> np.ndarray:
        if matrix.dtype == np.float32:
            raise np.linalg.LinAlgError
        return whole_cholesky(matrix)

    monkeypatch.setattr(np.linalg, "cholesky", fails)
    np.testing.assert_array_equal(inverse_factor(ordered.hessian, quick=True), exact)
