"""VPTQ's encoder, its codebooks, and error propagation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from mobile_bundle.codecs import Stats, codec_by_name, codec_for
from mobile_bundle.codecs.codebook import nearest_pair, train_codebooks
from mobile_bundle.codecs.propagation import DAMPING, importance, inverse_factor, propagate
from mobile_bundle.codecs.vector_blob import decode_vector, stack_codebooks, unpack_vector
from mobile_bundle.codecs.vector_layout import VectorLayout
from mobile_bundle.codecs.vptq import VptqCodec, full_name, parse_name
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def gaussian(rows: int, columns: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32) * np.float32(0.02)


def correlated_hessian(columns: int, seed: int = 0) -> Floats:
    """Of inputs as layers have them: a few strong directions, and columns of very different size."""
    generator = np.random.default_rng(seed)
    mix = generator.standard_normal((columns, columns)) * np.exp(generator.uniform(-1.5, 1.5, columns))
    x = generator.standard_normal((4 * columns, columns)) * np.exp(-np.arange(columns) / (columns / 4)) @ mix
    return (x.T @ x / len(x)).astype(np.float32)


def relative(weight: Floats, decoded: Floats, hessian: Floats | None = None) -> float:
    h = np.eye(weight.shape[1]) if hessian is None else hessian.astype(np.float64)
    difference = (decoded - weight).astype(np.float64)
    return float(np.einsum("rc,cd,rd->", difference, h, difference) / np.einsum("rc,cd,rd->", weight, h, weight))


def decode(blob, stats: Stats | None = None) -> Floats:
    shared = VectorLayout.from_flags(blob.header.flags).shared
    return decode_vector(blob, stats.codebook if stats and shared else None)


@pytest.mark.slow
def test_two_bits_on_gaussian_weights() -> None:
    weight = gaussian(768, 1024)
    codec = codec_by_name("vptq-2bit")
    assert codec.bits_per_weight(8960, 1536) < 2.02
    assert relative(weight, codec_for(codec.encode(weight).header).decode(codec.encode(weight))) <= 0.10


@pytest.mark.slow
def test_more_bits_are_better_and_a_pair_of_codebooks_beats_one() -> None:
    weight = gaussian(512, 512)
    errors = [relative(weight, decode(codec_by_name(f"vptq-v4-b{bits}").encode(weight))) for bits in (8, 9, 10, 11)]
    assert all(after < 0.8 * before for before, after in itertools.pairwise(errors))
    assert relative(weight, decode(codec_by_name("vptq-v8-b8-r8").encode(weight))) < errors[0]


@pytest.mark.parametrize(
    "name", ["vptq-2bit", "vptq-v4-b9", "vptq-v5-b8", "vptq-v8-b8-r8", "vptq-v12-b10", "vptq-v4-b8-o3"]
)
@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (37, 1), (17, 131), (61, 128), (5, 3)])
def test_odd_shapes(name: str, calibrated: bool, shape: tuple[int, int]) -> None:
    weight = gaussian(*shape, seed=3)
    codec = codec_by_name(name)
    stats = Stats(correlated_hessian(shape[1])) if calibrated else None
    if codec.layout.outliers > shape[1]:  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="outlier columns"):
            codec.encode(weight, stats)
        return
    blob = codec.encode(weight, stats)
    decoded = decode(blob)
    assert decoded.shape == shape
    assert len(blob.to_bytes()) == codec.blob_bytes(*shape)
    assert relative(weight, decoded) < 0.7  # so few vectors: most have an entry of their own
    np.testing.assert_array_equal(codec_for(blob.header).decode(blob), decoded)


def test_zero_rows_and_huge_and_tiny_weights() -> None:
    weight = gaussian(40, 64)
    weight[3] = 0
    weight[5] *= np.float32(1e4)
    weight[6] *= np.float32(1e-4)
    for stats in (None, Stats(correlated_hessian(64))):
        decoded = decode(codec_by_name("vptq-2bit").encode(weight, stats))
        assert not decoded[3].any()
        for row in (5, 6):
            assert relative(weight[row : row + 1], decoded[row : row + 1]) < 0.5
    zeros = np.zeros((8, 16), np.float32)
    np.testing.assert_array_equal(decode(codec_by_name("vptq-2bit").encode(zeros)), zeros)
    with pytest.raises(ValueError, match="NaN"):
        codec_by_name("vptq-2bit").encode(np.full((2, 8), np.nan, np.float32))


@pytest.mark.parametrize(
    "name", ["vptq-2bit", "vptq-v4-b10", "vptq-v8-b8-r8", "affine-2bit", "affine-3bit", "affine-4bit"]
)
def test_calibration_lowers_the_error_of_the_output(name: str) -> None:
    weight, hessian = gaussian(256, 256), correlated_hessian(256)
    codec = codec_by_name(name)
    plain = codec.encode(weight)
    calibrated = codec.encode(weight, Stats(hessian))
    reader = codec_for(plain.header)
    # what other inputs of the same distribution see, not the Hessian that was given
    fresh = correlated_hessian(256, seed=0)
    assert relative(weight, reader.decode(calibrated), fresh) < 0.8 * relative(weight, reader.decode(plain), fresh)
    assert relative(weight, reader.decode(calibrated)) > relative(weight, reader.decode(plain))  # that is its price


def test_outlier_columns_are_kept_apart() -> None:
    weight = gaussian(64, 96)
    weight[:, [7, 50]] *= 10
    plain, apart = codec_by_name("vptq-v4-b8"), codec_by_name("vptq-v4-b8-o2")
    blob = apart.encode(weight)
    assert unpack_vector(blob).outlier_columns.tolist() == [7, 50]
    for column in (7, 50):
        outliers = slice(column, column + 1)
        assert relative(weight[:, outliers], decode(blob)[:, outliers]) < 0.02
    assert relative(weight, decode(blob)) < 0.7 * relative(weight, decode(plain.encode(weight)))


def test_a_shared_codebook_is_used() -> None:
    weight = gaussian(128, 256)
    layout = VectorLayout(4, 9, 0, 0, True)
    points = np.random.default_rng(1).standard_normal((40_000, 4)).astype(np.float32)
    books = train_codebooks(points, np.ones(len(points), np.float32), layout)
    stats = Stats(None, None, stack_codebooks(layout, books.first), np.array([books.step], np.float32))
    codec = VptqCodec(layout)
    blob = codec.encode(weight, stats)
    own = codec_by_name("vptq-v4-b9")
    assert codec.blob_bytes(128, 256) == own.blob_bytes(128, 256) - 512 * 4
    assert relative(weight, decode(blob, stats)) < 0.09
    with pytest.raises(ValueError, match="codebook"):
        codec.encode(weight)
    with pytest.raises(ValueError, match="another tensor"):
        codec.decode(blob)


@pytest.mark.parametrize("filled", [64, 24])
@pytest.mark.parametrize("layout", [VectorLayout(4, 8, 0, 0, True), VectorLayout(4, 8, 8, 0, True)])
def test_a_weight_beyond_the_codebooks_reach_does_not_ruin_its_row(layout: VectorLayout, filled: int) -> None:
    """It meets a large input, as the massive activations of an attention sink are. Rows of zeros change nothing."""
    generator = np.random.default_rng(3)
    points, row, column = generator.standard_normal((20_000, 4)).astype(np.float32), 5, 40
    books = train_codebooks(points, np.ones(len(points), np.float32), layout)
    stacked = stack_codebooks(layout, books.first, books.second)
    weight, inputs = gaussian(64, 256), generator.standard_normal((4000, 256)).astype(np.float32)
    weight[row, column] = 0.02 * 16
    weight[filled:] = 0
    inputs[:4] *= 20
    inputs[:4, column] = 3000
    hessian = inputs.T @ inputs / len(inputs)
    stats = Stats(hessian, None, stacked, np.array([books.step], np.float32))
    decoded = decode(VptqCodec(layout).encode(weight, stats), stats)
    assert relative(weight[[row]], decoded[[row]], hessian) < 1e-3  # 0.27 and more without wider steps
    assert relative(weight[[row]], decoded[[row]]) < 2.2
    others = np.delete(np.arange(filled), row)
    assert relative(weight[others], decoded[others]) < 0.2


def test_the_second_entry_of_a_pair_is_searched_jointly() -> None:
    generator = np.random.default_rng(0)
    points = generator.standard_normal((400, 8)).astype(np.float32)
    first = generator.standard_normal((16, 8)).astype(np.float32)
    second = generator.standard_normal((16, 8)).astype(np.float32)
    i, j = nearest_pair(points, first, second)
    every = points[:, None, None] - first[None, :, None] - second[None, None]
    best = np.square(every).sum(-1).reshape(len(points), -1).min(1)
    got = np.square(points - first[i] - second[j]).sum(-1)
    assert (got >= best * 0.999).all()
    assert np.mean(got <= best * 1.001) > 0.8  # the beam of eight finds nearly all of them


def test_propagation_is_what_it_says() -> None:
    hessian = correlated_hessian(96)
    factor = inverse_factor(hessian)
    damped = hessian.astype(np.float64) + np.eye(96) * DAMPING * hessian.diagonal().mean()
    np.testing.assert_allclose(factor.T.astype(np.float64) @ factor @ damped, np.eye(96), atol=2e-3)
    assert (np.tril(factor, -1) == 0).all()
    weight = gaussian(32, 96)
    errors = []

    def rounded(number: int, block: Floats, own: Floats) -> Floats:
        out = (np.rint(block * 100) / 100).astype(np.float32)
        difference = (block - out).astype(np.float64)
        errors.append(np.square(np.linalg.solve(own.T.astype(np.float64), difference)).sum())
        return out

    for width in (1, 4, 32):
        errors.clear()
        work = weight.T.copy()
        propagate(work, factor, [(i, i + width) for i in range(0, 96, width)], rounded)
        difference = (work.T - weight).astype(np.float64)
        loss = np.einsum("rc,cd,rd->", difference, damped, difference)
        np.testing.assert_allclose(loss, sum(errors), rtol=2e-2)  # the identity the method rests on
        np.testing.assert_array_equal(work, np.rint(work * 100) / 100)
    assert (importance(factor) > 0).all()
    with pytest.raises(ValueError, match="Hessian"):
        inverse_factor(np.full((4, 4), np.inf, np.float32))


def test_names() -> None:
    for layout in (VectorLayout(4, 8), VectorLayout(8, 16, 12, 7), VectorLayout(12, 9, 0, 0, True)):
        assert parse_name(full_name(layout)) == layout
        assert codec_by_name(full_name(layout)).flags == layout.flags
    for name in ("vptq-v3-b8", "vptq-v4-b17", "vptq-v4-b8-r7", "vptq-v4-b8-o16384", "vptq-v4"):
        assert parse_name(name) is None
