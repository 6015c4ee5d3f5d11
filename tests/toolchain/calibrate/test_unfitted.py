"""What a code costs beyond its trial: on text that nothing was fitted to, and by int8 inputs."""

from __future__ import annotations

import numpy as np
import pytest
from mobile_bundle.codecs import Stats, codec_by_name
from mobile_bundle.codecs.propagation import inverse_factor, row_errors

torch = pytest.importorskip("torch")

from mobile_bundle.calibrate.activations import round_int8  # noqa: E402
from mobile_bundle.calibrate.unfitted import grouped_squares, rounding_noise, unfitted_share  # noqa: E402

COLUMNS = 256


def inputs(tokens: int, seed: int) -> np.ndarray:
    """Correlated, with columns of unequal strength, float32 (tokens, COLUMNS)."""
    shape = np.random.default_rng(0)
    mix = shape.normal(size=(COLUMNS, COLUMNS)) / 16 + np.diag(shape.uniform(0.2, 2, COLUMNS))
    found = np.random.default_rng(seed).normal(size=(tokens, COLUMNS)) @ mix
    return found.astype(np.float32)


def test_the_share_is_what_codes_do_to_other_text() -> None:
    """A trial on a part of the text, coding with all of it, and what is left on text that neither has seen."""
    weight = np.random.default_rng(1).normal(size=(64, COLUMNS)).astype(np.float32)
    whole, other = inputs(2400, 2), inputs(20000, 3)
    part = whole[:800]
    small, large, true = (x.T @ x / len(x) for x in (part, whole, other))

    def error(hessian: np.ndarray, judge: np.ndarray) -> float:
        codec = codec_by_name("affine-3bit")
        stats = Stats(hessian, np.ones(64, np.float32))
        return float(row_errors(codec.decode(codec.encode(weight, stats)) - weight, judge).sum())

    real = error(large, true) / error(small, small)
    found = unfitted_share(weight, inverse_factor(small), small, inputs(2000, 4), len(part) / len(whole))
    assert real > 1.15
    assert found == pytest.approx(real, rel=0.06)


def test_inputs_of_another_strength_are_no_other_text() -> None:
    weight = np.random.default_rng(1).normal(size=(8, COLUMNS)).astype(np.float32)
    x = inputs(800, 2)
    hessian = x.T @ x / len(x)
    assert unfitted_share(weight, inverse_factor(hessian), hessian, 3 * x, 0.5) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("group", "groups"), [(32, 7), (64, 4), (128, 2), (0, 1)])
def test_rounding_noise_is_that_of_int8(group: int, groups: int) -> None:
    """Of answers, too."""
    x = torch.from_numpy(inputs(4000, 5)[:, :200])
    weight = torch.randn(8, 200, generator=torch.Generator().manual_seed(0))
    errors = (round_int8(x, group) - x) @ weight.T
    noise = rounding_noise(x, group)
    assert noise.shape == (4000, groups)
    found, measured = (noise @ grouped_squares(weight, group).T).mean(0), errors.square().mean(0)
    assert float(found.sum()) == pytest.approx(float(measured.sum()), rel=0.05)
    torch.testing.assert_close(found, measured, rtol=0.15, atol=0)
    x[:, 7] *= 1000  # small values become 0
    assert float(rounding_noise(x, group)[:, 0].mean()) < 0.2 * float((x[:, 7] / 127).square().mean() / 12)
