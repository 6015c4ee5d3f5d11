"""Tokens taken out of the middle of a session: the rest stands where it would, had it been read without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.errors import ArgumentError
from mobile_bundle.native.engine import KV_TYPES, Model, Session
from mobile_bundle.pipeline.weights import build_weights
from support.checkpoints import ALL, write_tiny

IDS = np.random.default_rng(5).integers(3, 512, 120).astype(np.int32)


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory) -> dict[str, Path]:
    """Models of one layer: keys and values know of no other token, so that moved ones are those of reading again."""
    import torch
    import transformers

    out = {}
    for name, config in (
        ("llama", transformers.LlamaConfig),
        ("qwen3", transformers.Qwen3Config),
        ("phi3", transformers.Phi3Config),
    ):
        torch.manual_seed(2)
        folder = tmp_path_factory.mktemp(name)
        extra = {"partial_rotary_factor": 0.5, "pad_token_id": 0} if name == "phi3" else {}
        model = config(
            vocab_size=512, hidden_size=96, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.2,
            head_dim=48, **extra,
        )  # fmt: skip
        made = getattr(transformers, f"{config.__name__.removesuffix('Config')}ForCausalLM")(model)
        made.save_pretrained(folder)
        out[name] = folder / "weights.ptd"
        build_weights(folder, "raw", out[name])
    return out


def logits(session: Session, ids: np.ndarray) -> np.ndarray:
    return np.stack([session.feed([int(i)]).copy() for i in ids])


@pytest.mark.parametrize("kv_type", sorted(KV_TYPES))
@pytest.mark.parametrize("name", ["llama", "qwen3", "phi3"])
def test_of_one_layer_it_is_what_reading_again_gives(one_layer, name, kv_type):
    """But for rounding: a moved key was rounded twice. So it is at most about twice as far from an fp16 cache's logits
    as reading again with the same cache is."""

    def predictions(ids: list[int], remove: tuple[int, int] | None = None, kv: str = kv_type) -> np.ndarray:
        with model.session(context=128, kv_type=kv, threads=2) as session:
            if ids:
                session.feed(ids)
            if remove:
                session.remove(*remove)
                assert session.position == len(ids) - (remove[1] - remove[0])
            return logits(session, IDS[100:])

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(np.mean((a - b) ** 2)) / b.std())

    whole = IDS[:100].tolist()
    with Model(one_layer[name]) as model:
        for first, end in ((0, 40), (5, 6), (17, 80), (30, 100), (0, 100)):
            rest = whole[:first] + whole[end:]
            exact = predictions(rest, kv="f16")
            moved, read = predictions(whole, (first, end)), predictions(rest)
            if end == 100:  # nothing is moved
                np.testing.assert_array_equal(moved, read)
            assert apart(moved, exact) < 2.5 * apart(read, exact) + 0.002
            if end - first > 20 and kv_type in ("int8", "f16"):
                assert apart(moved, exact) < apart(predictions(whole, kv="f16"), exact) / 20


def test_int4_moves_between_8_and_4_bits(one_layer):
    """Far beyond the ring: what moves into the first tile, into what is coarse and into the ring, and what stays and is
    among the last again. So far from reading again as the cache's rounding is, and what follows can be taken back."""

    def predictions(session: Session) -> np.ndarray:
        first = logits(session, IDS[:20])
        session.rewind(session.position - 20)
        np.testing.assert_array_equal(logits(session, IDS[:20]), first)
        return first

    whole = np.random.default_rng(7).integers(3, 512, 460).tolist()
    with Model(one_layer["llama"]) as model:
        for first, end in ((0, 10), (3, 300), (100, 101), (150, 400), (220, 440), (300, 330), (30, 460), (70, 380)):
            rest = whole[:first] + whole[end:]
            results = []
            for kv in ("int4", "int8", "f16"):
                with model.session(context=500, kv_type=kv, threads=2) as session:
                    session.feed(whole)
                    session.remove(first, end)
                    assert session.position == len(rest)
                    results.append(predictions(session))
            with model.session(context=500, kv_type="int4") as session:
                session.feed(rest)
                read = predictions(session)
            moved, int8, exact = results
            apart = [float(np.sqrt(np.mean((each - exact) ** 2)) / exact.std()) for each in (moved, int8, read)]
            assert apart[0] < 2.5 * apart[2] + 2 * apart[1] + 0.002, (first, end)


@pytest.mark.parametrize("kv_type", sorted(KV_TYPES))
def test_values_and_unmoved_keys_keep_their_bits(bundle, kv_type):
    """Removing the last tokens, or none, is going back; removing all is beginning anew."""
    with Model(bundle("affine-4bit")) as model:

        def after(change) -> np.ndarray:
            with model.session(context=128, kv_type=kv_type) as session:
                session.feed(IDS[:60])
                change(session)
                return logits(session, IDS[60:70])

        np.testing.assert_array_equal(after(lambda s: s.remove(30, 60)), after(lambda s: s.rewind(30)))
        np.testing.assert_array_equal(after(lambda s: s.remove(0, 60)), after(lambda s: s.rewind(0)))
        np.testing.assert_array_equal(after(lambda s: s.remove(20, 20)), after(lambda s: None))
        by_threads = []
        for threads in (1, 3):
            with model.session(context=128, kv_type=kv_type, threads=threads) as session:
                session.feed(IDS[:60])
                session.remove(10, 33)
                by_threads.append(logits(session, IDS[60:70]))
        np.testing.assert_array_equal(*by_threads)


def test_what_it_does_not_hold_is_refused(bundle):
    with Model(bundle("affine-4bit")) as model, model.session(context=64) as session:
        session.feed(IDS[:20])
        for first, end in ((5, 21), (7, 6), (30, 40)):
            with pytest.raises(ArgumentError, match="the session holds 20"):
                session.remove(first, end)
        assert session.position == 20


@pytest.mark.parametrize(("name", "why"), [("mistral", "window"), ("lfm2", "convolutions"), ("hunyuan", "norms")])
def test_models_whose_keys_cannot_be_moved_are_refused(tmp_path, name, why):
    if name == "mistral" and "sliding_window" not in ALL[name][1]:
        name = "gemma3"
    weights = tmp_path / "weights.ptd"
    build_weights(write_tiny(tmp_path / "model", name), "raw", weights)
    with Model(weights) as model, model.session(context=64) as session:
        session.feed(IDS[:20])
        with pytest.raises(ArgumentError, match=why):
            session.remove(5, 10)
        assert session.position == 20
