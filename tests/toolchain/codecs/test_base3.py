"""Base 3: the same values as `bitnet`, and an install that gives the very blob that `bitnet` writes."""

from __future__ import annotations

import numpy as np
import pytest
from mobile_bundle.codecs import ArraySource, Blob, BlobError, codec_by_name, codec_for
from mobile_bundle.codecs.installed import decode_stored
from mobile_bundle.errors import UserError
from mobile_bundle.models import open_model
from mobile_bundle.planning.recipe import named_recipe, tensor_codec
from numpy.typing import NDArray

SHAPES = [
    (1, 1),
    (1, 5),
    (1, 1607),
    (37, 1),
    (2, 79),
    (16, 80),
    (16, 1280),
    (17, 1281),
    (61, 172),
    (33, 2593),
    (300, 40),
]
PAIRS = [("bitnet-1.6bit", "bitnet"), ("bitnet-1.6bit-row", "bitnet-row")]


def gaussian(shape: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.02).astype(np.float32)


@pytest.mark.parametrize(("name", "packed"), PAIRS)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_install_gives_the_blob_of_bitnet(name: str, packed: str, shape: tuple[int, int]) -> None:
    weight = gaussian(shape, shape[1])
    codec = codec_by_name(name)
    blob = codec.encode(weight)
    expected = codec_by_name(packed).encode(weight)
    assert decode_stored(blob.to_bytes()).to_bytes() == expected.to_bytes()
    np.testing.assert_array_equal(codec_for(blob.header).decode(blob), codec_by_name(packed).decode(expected))
    assert codec.blob_bytes(*shape) == len(blob.to_bytes())
    encoded, other = (codec_by_name(each).encode_stream(ArraySource(weight), len) for each in (name, packed))
    assert encoded.relative_error == pytest.approx(other.relative_error, rel=1e-12)


@pytest.mark.parametrize(("name", "packed"), PAIRS)
def test_random_shapes(name: str, packed: str) -> None:
    generator = np.random.default_rng(5)
    for seed in range(40):
        rows, columns = int(generator.integers(1, 70)), int(generator.integers(1, 400))
        weight = gaussian((rows, columns), seed)
        stored = codec_by_name(name).encode(weight).to_bytes()
        assert decode_stored(stored).to_bytes() == codec_by_name(packed).encode(weight).to_bytes()


def test_several_chunks_and_ternary_weights_are_lossless() -> None:
    generator = np.random.default_rng(1)
    weight = (generator.integers(-1, 2, (4096 + 37, 163)) * np.float32(0.0341796875)).astype(np.float32)
    codec = codec_by_name("bitnet-1.6bit")
    blob = codec.encode(weight)
    np.testing.assert_array_equal(codec.decode(blob), weight)
    np.testing.assert_array_equal(codec.decode_rows(blob, 4096, 4096 + 37), weight[4096:])
    assert codec.bits_per_weight(4096, 4095) == pytest.approx(1.6, abs=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    weight = gaussian((20, 50))
    weight[13, 7] = value
    for name, _ in PAIRS:
        with pytest.raises(ValueError, match="NaN or infinite"):
            codec_by_name(name).encode(weight)


def test_padding_never_reaches_the_packed_blob() -> None:
    """Codes behind the last column decode to zero weights, whatever a file says."""
    weight = gaussian((3, 6))
    good = codec_by_name("bitnet-1.6bit").encode(weight)
    payload = bytearray(good.payload)
    for row in range(3):
        payload[2 * row + 1] = payload[2 * row + 1] % 3 + 3 * 80  # the four digits of the padding become 2
    assert decode_stored(good.header.pack() + bytes(payload)).payload == decode_stored(good.to_bytes()).payload


def test_damage_is_refused() -> None:
    for name, _ in PAIRS:
        good = bytearray(codec_by_name(name).encode(gaussian((18, 167))).to_bytes())
        for at in (64, 64 + 33, 64 + 18 * 34 - 1):
            damaged = good.copy()
            damaged[at] = 243
            with pytest.raises(UserError, match="byte above 242"):
                decode_stored(bytes(damaged))
            with pytest.raises(BlobError, match="byte above 242"):
                codec_by_name(name).decode(Blob.parse(bytes(damaged)))
        for at, value in ((0, 0), (6, 36), (8, 19), (12, 171), (16, 32), (20, 1), (27, 255), (32, 1), (63, 1)):
            damaged = good.copy()
            damaged[at] = value
            if at == 27:
                damaged[26] = 255  # the scale becomes NaN
            with pytest.raises(UserError):
                decode_stored(bytes(damaged))
        with pytest.raises(UserError, match="payload size"):
            decode_stored(bytes(good[:-1]))
        with pytest.raises(UserError, match="shorter than its header"):
            decode_stored(bytes(good[:40]))


@pytest.mark.parametrize("kind", ["made", "trained"])
def test_a_ternary_checkpoint_keeps_its_values_in_every_recipe(bitnet, kind) -> None:
    with open_model(bitnet(kind)) as model:
        body = next(tensor for tensor in model.tensors if tensor.role not in ("vector", "embedding", "output"))
        assert tensor_codec(named_recipe("bitnet-1.6bit"), model.spec, body).name == "bitnet-1.6bit"
        assert tensor_codec(named_recipe("affine-2bit"), model.spec, body).name == "bitnet"
        weight = next(model.source(body).chunks(64))
        codec = codec_by_name("bitnet-1.6bit")
        np.testing.assert_array_equal(codec.decode(codec.encode(weight)), weight)
