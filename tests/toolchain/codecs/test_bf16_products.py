"""Sums of products in bfloat16, against NumPy's of the rounded factors."""

from __future__ import annotations

import numpy as np
import pytest
from mobile_bundle.errors import UserError
from mobile_bundle.native.products import bf16_products, has_bf16_products


def rounded(values: np.ndarray) -> np.ndarray:
    """To bfloat16, to even, as float64."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


@pytest.mark.skipif(not has_bf16_products(), reason="this processor has no units for bfloat16")
@pytest.mark.parametrize(
    ("tokens", "columns", "others"), [(1, 1, 1), (2, 12, 32), (3, 13, 33), (511, 25, 17), (513, 40, 70), (1200, 64, 16)]
)
def test_the_sums_are_those_of_the_rounded_factors(tokens: int, columns: int, others: int) -> None:
    generator = np.random.default_rng(tokens)
    a, b = (generator.standard_normal((tokens, size)).astype(np.float32) for size in (columns, others))
    expected = rounded(a).T @ rounded(b)
    size = np.abs(rounded(a)).T @ np.abs(rounded(b))
    assert (np.abs(bf16_products(a, b) - expected) <= 1e-5 * size).all()
    squares = bf16_products(a, a, upper=True)
    np.testing.assert_allclose(np.triu(squares), np.triu(rounded(a).T @ rounded(a)), rtol=1e-4, atol=1e-3)


def test_what_cannot_be_multiplied_is_refused() -> None:
    with pytest.raises(ValueError, match="no products"):
        bf16_products(np.zeros((3, 4), np.float32), np.zeros((2, 4), np.float32))
    with pytest.raises(UserError, match="no products of 0"):
        bf16_products(np.zeros((3, 0), np.float32), np.zeros((3, 4), np.float32))
