"""Scales in a byte: every code, the nearest one, and matrices whose groups are far apart."""

from __future__ import annotations

import numpy as np
import pytest
from mobile_bundle.codecs import StreamCodec, codec_by_name
from mobile_bundle.codecs.affine_steps import ByteSteps
from mobile_bundle.codecs.blob import payload_bytes
from mobile_bundle.codecs.formats import BlobError, Format
from mobile_bundle.codecs.scale_types import E4M4, FP16, worthwhile
from mobile_bundle.errors import UserError
from mobile_bundle.healing.grids import make_grid

EVERY = np.array(
    [mantissa * 2.0**-18 for mantissa in range(16)]
    + [(16 + mantissa) * 2.0 ** (exponent - 19) for exponent in range(1, 16) for mantissa in range(16)],
    np.float32,
)
"""By their byte, as packed_formats.h says."""


def test_every_byte_is_the_number_that_the_format_says() -> None:
    codes = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(E4M4.values(codes), EVERY)
    np.testing.assert_array_equal(E4M4.stored(EVERY), codes)
    assert np.float32(E4M4.largest) == EVERY[-1]


def test_the_nearest_is_stored_and_the_largest_beyond_it() -> None:
    generator = np.random.default_rng(3)
    scales = np.exp(generator.uniform(np.log(1e-7), np.log(4), (300, 7))).astype(np.float32)
    stored = E4M4.stored(scales)
    assert stored.dtype == np.uint8
    assert stored.shape == scales.shape
    nearest = np.abs(EVERY - scales[..., None]).min(axis=-1)
    lost = np.abs(E4M4.values(stored) - scales)
    assert (lost <= nearest + scales * 2.0**-10 + 2.0**-24).all()  # fp16 comes between
    halfway = (EVERY[:-1] + EVERY[1:]) / 2
    assert (E4M4.stored(halfway) % 2 == 0).all()
    assert E4M4.stored(np.float32([1e9])).tolist() == [255]


def test_halves_are_halves() -> None:
    scales = np.float32([0, 1e-7, 0.1, 3, 1e6])
    np.testing.assert_array_equal(
        FP16.values(FP16.stored(scales)), np.float32([0, 2.0**-23, np.float16(0.1), 3, 65504])
    )


def test_a_row_that_is_made_stronger_keeps_its_mean_ratio() -> None:
    """Scales that are stored already and are 2.5 % larger now: the nearest ones are all the old or all the next."""
    scales = E4M4.values(np.random.default_rng(0).integers(100, 140, (50, 40)).astype(np.uint8))
    wanted = scales * np.float32(1.025)
    evenly = E4M4.values(E4M4.stored_evenly(wanted)) / wanted
    assert abs(evenly.mean(axis=1) - 1).max() < 0.002
    assert abs(evenly - 1).max() < 0.1
    nearest = E4M4.values(E4M4.stored(wanted)) / wanted
    assert abs(nearest.mean(axis=1) - 1).max() > 0.005
    np.testing.assert_array_equal(E4M4.stored_evenly(scales), E4M4.stored(scales))
    assert (E4M4.stored_evenly(np.zeros((2, 3), np.float32)) == 0).all()
    np.testing.assert_array_equal(worthwhile(np.float32([1, 1.009, 1.02])), np.float32([1, 1, 1.02]))


@pytest.mark.parametrize("bits", [3, 4, 5, 6])
def test_zero_points_are_the_nearest_and_keep_their_place(bits: int) -> None:
    steps, last = ByteSteps(bits), 1 << bits
    d = steps.scale(np.full((1, 300), 0.37, np.float32))
    zero = np.linspace(0, last * 255 / 256, 300, dtype=np.float32)[None]
    m = steps.offset(-d * zero, d)
    assert abs(-m / d - zero).max() <= last / 512 * 1.001
    stored = steps.zeros(m, d)
    assert (stored.min(), stored.max()) == (0, 255)
    larger, moved = steps.stronger(d, m, np.full((1, 1), 1.1, np.float32))
    np.testing.assert_array_equal(steps.zeros(moved, larger), stored)
    assert larger.mean() == pytest.approx(1.1 * d.mean(), rel=0.002)
    assert steps.zeros(m, 0 * d).tolist() == [[0] * 300]
    outside = steps.zeros(np.float32([1, -100]), np.float32([0.5, 0.5]))  # 0 would need codes that are not there
    assert outside.tolist() == [0, 255]


def test_what_has_no_such_scales_is_refused() -> None:
    for format, flags in ((Format.AFFINE4, 8), (Format.AFFINE2, 9), (Format.AFFINE8, 9), (Format.SIGN1, 8)):
        with pytest.raises(BlobError):
            payload_bytes(format, 16, 64, 64, flags)
    for name in ("affine-2bit-g32-e4m4", "affine-8bit-g32-e4m4", "kept-affine-4bit-g32-e4m4"):
        with pytest.raises(UserError, match="unknown codec"):
            codec_by_name(name)
    with pytest.raises(UserError, match="cannot be healed"):
        make_grid(codec_by_name("affine-4bit-g32-e4m4"), 64)


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("spread", [1.0, 30.0, 1000.0])
def test_groups_far_below_the_largest_weight_keep_their_quality(bits: int, spread: float) -> None:
    """A weight `spread` times as large as a matrix's others, which stand for most of its energy, is in one group."""
    weight = (np.random.default_rng(1).standard_normal((64, 256)) * 0.01).astype(np.float32)
    weight[5, 3] = 0.04 * spread
    halves, bytes_ = (codec_by_name(f"trellis-{bits}bit-g64{suffix}") for suffix in ("", "-e4m4"))
    others = np.ones(weight.shape, bool)
    others[5, :64] = False

    def lost(codec: StreamCodec) -> float:
        decoded = codec.decode(codec.encode(weight))
        return float(np.square(decoded - weight)[others].sum())

    assert lost(bytes_) <= 1.03 * lost(halves)
