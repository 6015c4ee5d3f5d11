"""Fake quantisation has exactly the values of the packed formats, and gradients."""

from __future__ import annotations

import numpy as np
import pytest
from mobile_bundle.codecs import codec_by_name
from mobile_bundle.codecs.grids import find_grid
from mobile_bundle.codecs.source import ArraySource
from mobile_bundle.codecs.stats import Stats
from mobile_bundle.errors import UnsupportedError

torch = pytest.importorskip("torch")

from mobile_bundle.calibrate.activations import round_int8  # noqa: E402
from mobile_bundle.healing import grids  # noqa: E402
from mobile_bundle.healing.divergence import divergence  # noqa: E402
from mobile_bundle.healing.grids import make_grid  # noqa: E402
from mobile_bundle.healing.matrix import Matrix  # noqa: E402

FORMATS = (
    "bitnet-row",
    "bitnet",
    "bitnet-1.25bit",
    "bitnet-1.25bit-row",
    "vptq-2bit",
    "affine-2bit",
    "affine-2bit-g64-asym",
    "affine-3bit",
    "affine-4bit-g32-sym",
)


def weights(columns: int) -> np.ndarray:
    """float32 (48, columns), rows of different sizes, one of zeros."""
    random = np.random.default_rng(0)
    made = 0.02 * random.standard_normal((48, columns)) * random.gamma(2, 1, (48, 1))
    made[7] = 0
    return made.astype(np.float32)


def trained(name: str, columns: int, steps: int = 40) -> Matrix:
    grid = make_grid(codec_by_name(name), columns)
    matrix = Matrix(grid, grid.start(weights(columns), None))
    target = torch.from_numpy(weights(columns)) * 1.3 - 0.003
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(matrix.parameters(), lr=3e-4)
    for _ in range(steps):
        optimiser.zero_grad()
        (torch.randn(32, columns) @ (matrix() - target).T).square().mean().backward()
        optimiser.step()
    return matrix


@pytest.mark.parametrize("columns", [192, 200])
@pytest.mark.parametrize("name", FORMATS)
def test_trained_values_are_what_a_packed_blob_decodes_to(name: str, columns: int) -> None:
    values = trained(name, columns)().detach().numpy() + np.float32(0)  # -0 becomes 0
    codec = find_grid(ArraySource(values))
    assert codec is not None
    assert codec.blob_bytes(48, columns) <= codec_by_name(name).blob_bytes(48, columns)
    decoded = codec.decode(codec.encode(values))
    assert (decoded + np.float32(0)).tobytes() == values.tobytes()


@pytest.mark.parametrize("name", ["bitnet-row", "bitnet", "affine-2bit-g64-asym", "affine-3bit"])
def test_a_processor_s_rounding_is_that_of_plain_operations(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Values to the bit, gradients within a float's; weights beyond both ends and scales of zero among them."""
    matrix = trained(name, 200)
    slopes = torch.randn(48, 200)
    with torch.no_grad():
        matrix.weight[:4] *= 4
        matrix.scale[0] = 0

    def found() -> list[torch.Tensor]:
        matrix.zero_grad()
        values = matrix()
        (values * slopes).sum().backward()
        return [values.detach(), *(each.grad.clone() for each in matrix.parameters())]

    own = found()
    monkeypatch.setattr(grids, "_rounded", lambda w, d, m, *ends: grids._values(grids._levels(w, d, m, *ends), d, m))
    plain = found()
    assert torch.equal(own[0], plain[0])
    assert (own[1] == 0).any()
    for one, other in zip(own[1:], plain[1:], strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("name", FORMATS)
def test_training_comes_nearer(name: str) -> None:
    target = torch.from_numpy(weights(192)) * 1.3 - 0.003
    before, after = ((trained(name, 192, steps)() - target).square().sum() for steps in (0, 40))
    assert after < 0.999 * before


def test_a_ternary_matrix_has_three_levels() -> None:
    """Not five, as round(clamp(w / a, -1, 1) * 1.5) has: 1.5 rounds to 2."""
    matrix = trained("bitnet-row", 192)
    levels = (matrix() / matrix.scale).round().unique()
    assert levels.tolist() == [-1, 0, 1]


def test_a_sparse_matrix_has_one_zero_in_four() -> None:
    values = trained("bitnet-1.25bit", 192)()
    assert ((values.view(48, -1, 4) == 0).sum(2) == 1).all()


def test_a_sparse_matrix_may_begin_dense() -> None:
    """At softness 1 the smallest of four keeps its value, at 0 it is silent; its gradient passes at both."""
    matrix = trained("bitnet-1.25bit-row", 192)
    groups = matrix.weight.detach().view(48, -1, 4)
    smallest = groups.abs().argmin(2, keepdim=True)
    inside = groups.gather(2, smallest).abs() < 1.4 * matrix.scale[:, :, None]
    assert inside.float().mean() > 0.9
    for softness in (1.0, 0.25, 0.0):
        matrix.softness.fill_(softness)
        values = matrix()
        found = values.detach().view(48, -1, 4).gather(2, smallest)
        assert torch.allclose(found[inside], softness * groups.gather(2, smallest)[inside], atol=1e-6)
        matrix.zero_grad()
        values.sum().backward()
        assert torch.allclose(matrix.weight.grad.view(48, -1, 4).gather(2, smallest)[inside], torch.ones(()))


def test_a_codebook_learns_and_vectors_change_their_codes() -> None:
    before, after = (trained("vptq-2bit", 192, steps) for steps in (0, 40))
    assert (before.offset * 256 - (before.offset * 256).round()).abs().max() < 1e-4
    assert ((after.offset * 256).round() != (before.offset * 256).round()).any()
    values = after().detach()
    d = (after.scale / 256 / after.unit).half().float() * after.unit
    codes = (values / d).round()
    assert torch.equal(codes * d, values)
    assert len(codes.view(-1, 4).unique(dim=0)) <= 256


def test_the_start_from_a_calibrated_code_is_that_code() -> None:
    columns = 128
    inputs = np.random.default_rng(1).standard_normal((400, columns)).astype(np.float32) * np.linspace(0.1, 3, columns)
    hessian = (inputs.T @ inputs / 400).astype(np.float32)
    w = weights(columns)
    for name in ("affine-2bit-g64-asym", "bitnet-row", "vptq-2bit"):
        grid = make_grid(codec_by_name(name), columns)
        losses = []
        for stats in (Stats(hessian=hessian), None):
            values = Matrix(grid, grid.start(w, stats))().detach().numpy()
            losses.append(float(np.square(inputs @ (values - w).T).sum()))
        assert losses[0] < 0.97 * losses[1], name


def test_codes_without_a_grid_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="vptq-v8-b8 cannot be healed"):
        make_grid(codec_by_name("vptq-v8-b8"), 128)
    with pytest.raises(UnsupportedError, match="a multiple of 4 columns"):
        make_grid(codec_by_name("bitnet-1.25bit"), 130)


def test_activations_have_255_levels_per_group_and_pass_gradients() -> None:
    x = (torch.randn(3, 100) * torch.linspace(0.1, 5, 100)).requires_grad_(True)
    y = round_int8(x, 32)
    for part, own in zip(x.split(32, 1), y.split(32, 1), strict=True):
        step = part.abs().amax(1, keepdim=True) / 127
        assert torch.allclose(own / step, (part / step).round(), atol=1e-3)
    y.sum().backward()
    assert (x.grad == 1).all()


@pytest.mark.parametrize(("cap", "temperature"), [(0.0, 1.0), (0.0, 2.5), (1.5, 1.0), (1.5, 0.7)])
def test_the_loss_and_its_gradients_are_torchs(monkeypatch: pytest.MonkeyPatch, cap: float, temperature: float) -> None:
    monkeypatch.setattr("mobile_bundle.healing.divergence.PIECE", 7)
    torch.manual_seed(0)
    x, head = torch.randn(2, 11, 16, requires_grad=True), torch.randn(40, 16, requires_grad=True)
    y, other = torch.randn(2, 11, 16), torch.randn(40, 16)

    def log_likely(logits: torch.Tensor) -> torch.Tensor:
        capped = cap * torch.tanh(logits / cap) if cap else logits
        return torch.log_softmax(capped / temperature, -1)

    p = log_likely(y @ other.T)
    expected = temperature**2 * (p.exp() * (p - log_likely(x @ head.T))).sum(-1).mean()
    by_x, by_head = torch.autograd.grad(3 * expected, (x, head))
    loss = divergence(x, head, y, other, cap, temperature)
    found = torch.autograd.grad(3 * loss, (x, head))
    assert torch.allclose(loss, expected, atol=1e-5)
    assert torch.allclose(found[0], by_x, atol=1e-5)
    assert torch.allclose(found[1], by_head, atol=1e-5)


@pytest.mark.parametrize("columns", [192, 200])
@pytest.mark.parametrize("name", FORMATS)
def test_scales_learn_alone_where_codes_stay(name: str, columns: int) -> None:
    """From weights that lie on their levels: there, training with the rounding in place moves no scale."""
    grid = make_grid(codec_by_name(name), columns)
    matrix = Matrix(grid, grid.start(weights(columns), None))
    begin = matrix().detach()
    with torch.no_grad():
        matrix.weight.copy_(begin)
    matrix.fix_codes(given=False)
    assert torch.equal(matrix(), begin)
    codes = matrix.weight.detach().clone()
    wanted = begin * 1.1
    optimiser = torch.optim.Adam([each for each in matrix.parameters() if each.requires_grad], lr=3e-4)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = (matrix() - wanted).square().sum()
        loss.backward()
        losses.append(float(loss.detach()))
        optimiser.step()
    assert losses[-1] < 0.85 * losses[0]
    assert torch.equal(matrix.weight, codes)
    values = matrix().detach().numpy() + np.float32(0)
    codec = find_grid(ArraySource(values))
    assert codec is not None
    assert codec.blob_bytes(48, columns) <= codec_by_name(name).blob_bytes(48, columns)
