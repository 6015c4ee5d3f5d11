"""The engine's numbers: against transformers, against itself in other orders, on every kernel table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.errors import UserError
from mobile_bundle.native.engine import Model, estimate_memory
from mobile_bundle.native.tokenizer import Tokenizer
from mobile_bundle.pipeline.weights import build_weights
from support.paths import STORIES

PROMPT = "The history of the city begins with the first settlers, who came from the north in the year"


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def reference():
    """transformers in float32 on wiki-6m."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from support.paths import EXAMPLE

    model = transformers.AutoModelForCausalLM.from_pretrained(EXAMPLE, dtype=torch.float32).eval()

    def logits(ids: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].numpy()

    return logits


@pytest.fixture(scope="module")
def prompt_ids(bundle) -> np.ndarray:
    tokenizer = Tokenizer(bundle("raw") / "tokenizer.bin")
    return np.concatenate([[0], tokenizer.encode(PROMPT)]).astype(np.int32)


def greedy(session, ids: np.ndarray, steps: int) -> list[int]:
    session.rewind(0)
    logits = session.feed(ids)
    out = []
    for _ in range(steps):
        out.append(int(logits.argmax()))
        logits = session.feed([out[-1]])
    return out


@pytest.mark.parametrize(("recipe", "limit"), [("raw", 1e-3), ("affine-8bit", 2e-2)])
def test_logits_match_transformers(bundle, reference, prompt_ids, recipe, limit):
    expected = reference(prompt_ids)
    with Model(bundle(recipe)) as model, model.session(kv_type="f16", prefill_chunk=64, all_logits=True) as session:
        logits = session.feed_all(prompt_ids)
        assert relative(logits, expected) < limit
        assert relative(logits[-1], expected[-1]) < limit


@pytest.mark.parametrize(
    ("recipe", "prompts"),
    [("raw", ["The history of the city", "In 1984, he", "The first", "She was born in"]),
     ("affine-8bit", ["Water is", "During the war", "In mathematics"])],
)  # fmt: skip
def test_greedy_tokens_match_transformers(bundle, reference, recipe, prompts):
    tokenizer = Tokenizer(bundle(recipe) / "tokenizer.bin")
    with Model(bundle(recipe)) as model, model.session(context=256, kv_type="f16") as session:
        for prompt in prompts:
            start = np.concatenate([[0], tokenizer.encode(prompt)]).astype(np.int32)
            ids = start
            for _ in range(64):
                ids = np.append(ids, np.int32(reference(ids)[-1].argmax()))
            assert greedy(session, start, 64) == ids[len(start) :].tolist(), prompt


@pytest.mark.slow
def test_8_bit_parts_from_transformers_only_where_two_tokens_are_level(bundle, reference, prompt_ids):
    """Along the reference's own text: where the best token differs, the reference's lead over ours is small."""
    ids = prompt_ids
    parted = 0
    with Model(bundle("affine-8bit")) as model, model.session(context=256, kv_type="f16") as session:
        logits = session.feed(ids)
        for _ in range(64):
            expected = reference(ids)[-1]
            best = int(expected.argmax())
            if int(logits.argmax()) != best:
                parted += 1
                assert expected[best] - expected[logits.argmax()] < 0.25
            ids = np.append(ids, np.int32(best))
            logits = session.feed([best])
    assert parted <= 6


@pytest.mark.parametrize("recipe", ["raw", "affine-8bit", "affine-4bit", "affine-3bit", "affine-2bit", "bitnet"])
@pytest.mark.parametrize("kv_type", ["int8", "k8v4", "int4", "f16"])
def test_every_order_of_feeding_gives_the_same_bits(bundle, recipe, kv_type):
    """Prefill in any chunks, decode, one thread or three, scalar or SIMD: the same logits, bit for bit."""
    ids = np.random.default_rng(5).integers(0, 4096, 75).astype(np.int32)
    logits = []
    for kernels, threads, chunk in (("scalar", 1, 32), (None, 1, 32), (None, 3, 7), (None, 2, 75), (None, 2, 1)):
        with (
            Model(bundle(recipe), kernels) as model,
            model.session(context=80, threads=threads, prefill_chunk=chunk, kv_type=kv_type) as session,
        ):
            logits.append(session.feed(ids).copy())
    for other in logits[1:]:
        np.testing.assert_array_equal(logits[0], other)


def test_rewind_forgets_exactly_what_came_after(bundle):
    ids = np.arange(1, 41, dtype=np.int32)
    with Model(bundle("affine-4bit")) as model, model.session(context=64) as session:
        expected = session.feed(ids).copy()
        session.rewind(10)
        session.feed(ids[::-1][:20])
        session.rewind(10)
        np.testing.assert_array_equal(session.feed(ids[10:]), expected)


def test_stories260k_says_what_llama2_c_publishes(bundle):
    """A golden text that others computed: float32 in llama2.c, bf16 weights here."""
    golden = (STORIES / "golden.txt").read_text().strip()
    directory = bundle("raw", STORIES)
    tokenizer = Tokenizer(directory / "tokenizer.bin")
    ids = tokenizer.encode("Once upon a time", special=True)
    with Model(directory) as model, model.session(context=256, kv_type="f16") as session:
        text = tokenizer.decode([*ids, *greedy(session, ids, 180)], skip_special=True)
    assert text.strip() == golden


def test_an_impossible_session_is_refused(bundle):
    with Model(bundle("raw")) as model:
        for options, words in (
            ({"context": 10_000}, "trained for 512"),
            ({"threads": 1000}, "threads"),
            ({"prefill_chunk": 5000}, "chunk"),
        ):
            with pytest.raises(UserError, match=words), model.session(**options):
                pass
        with model.session(context=8) as session:
            with pytest.raises(UserError, match="do not fit a context of 8"):
                session.feed(range(9))
            with pytest.raises(UserError, match="vocabulary"):
                session.feed([4096])
            with pytest.raises(UserError, match="vocabulary"):
                session.feed([-1])
            with pytest.raises(UserError, match="all_logits"):
                session.feed_all([1])
    with pytest.raises(UserError, match="no sparc kernels"):
        Model(bundle("raw"), "sparc")


def test_memory_estimate_is_the_sum_of_its_parts(bundle):
    from mobile_bundle.models import open_model
    from support.paths import EXAMPLE

    with open_model(EXAMPLE) as model:
        config = model.spec.to_config_bytes()
    short, long = estimate_memory(config, 128, 1), estimate_memory(config, 512, 1)
    # 6 layers, 2 KV heads, keys and values, 64 int8 values and two fp16 scales each.
    assert short.kv_bytes_per_token == 6 * 2 * 2 * (64 + 2 * 2)
    assert long.kv_bytes == 4 * short.kv_bytes == 512 * short.kv_bytes_per_token
    assert estimate_memory(config, 120, 1).kv_bytes == short.kv_bytes  # whole groups of 16 positions
    f16 = estimate_memory(config, 128, 1, "f16")
    assert f16.kv_bytes_per_token == 6 * 2 * 2 * 64 * 2
    for context, fine, coarse in ((40, 48, 0), (120, 128, 0), (192, 192, 64), (512, 192, 384)):
        int4 = estimate_memory(config, context, 1, "int4")
        assert int4.kv_bytes_per_token == 6 * 2 * 2 * (32 + 2 * 2)
        # the first 64 positions and the last 128 (a chunk of 32 among them) in 8 bits, those between them in 4
        assert int4.kv_bytes == fine * short.kv_bytes_per_token + coarse * int4.kv_bytes_per_token
    k8v4 = estimate_memory(config, 120, 1, "k8v4")
    assert k8v4.kv_bytes_per_token == 6 * 2 * (64 + 32 + 2 * 2 * 2)
    assert k8v4.kv_bytes == 128 * k8v4.kv_bytes_per_token


def test_caches_of_fewer_bits_are_close_to_an_fp16_one(bundle):
    """Far closer than logits would be of a cache that is read at wrong places."""
    ids = np.random.default_rng(3).integers(0, 4096, 400).astype(np.int32)
    logits = {}
    with Model(bundle("raw")) as model:
        for kv_type in ("f16", "int8", "k8v4", "int4"):
            with model.session(context=400, kv_type=kv_type) as session:
                logits[kv_type] = session.feed(ids).copy()
    whole = logits.pop("f16")
    error = {kv_type: np.linalg.norm(other - whole) for kv_type, other in logits.items()}
    assert 0 < error["int8"] < min(error["k8v4"], error["int4"])
    assert max(error.values()) < 0.1 * np.linalg.norm(whole - whole.mean())


def test_int4_is_int8_until_a_token_no_longer_sees_a_tile_in_8_bits(bundle):
    """Token 160 is the first that sees positions 64 to 127 in 4 bits: 32 lie behind them."""
    ids = np.random.default_rng(3).integers(0, 4096, 170).astype(np.int32)
    with (
        Model(bundle("affine-4bit")) as model,
        model.session(context=170, kv_type="int8") as int8,
        model.session(context=170, kv_type="int4") as int4,
    ):
        same = [bool((int8.feed([int(i)]) == int4.feed([int(i)])).all()) for i in ids]
    assert same == [True] * 160 + [False] * 10


LONG = np.random.default_rng(6).integers(0, 4096, 300).astype(np.int32)


def test_int4_far_beyond_its_ring_in_every_order_of_feeding(bundle):
    """Rings of 128 to 384 positions, tiles that become coarse within a chunk, and at any place of it."""
    logits = []
    for kernels, threads, chunk in (("scalar", 1, 32), (None, 1, 1), (None, 3, 7), (None, 2, 75), (None, 2, 256)):
        with (
            Model(bundle("affine-4bit"), kernels) as model,
            model.session(context=300, threads=threads, prefill_chunk=chunk, kv_type="int4") as session,
        ):
            logits.append(session.feed(LONG).copy())
    for other in logits[1:]:
        np.testing.assert_array_equal(logits[0], other)


def test_int4_is_rewound_exactly_or_refuses(bundle):
    """The ring holds the last 128 positions: what the token before `position` saw in 8 bits must be among them."""
    with Model(bundle("affine-4bit")) as model, model.session(context=300, kv_type="int4") as session:
        expected = session.feed(LONG).copy()
        for position in (300, 289, 288, 64, 10, 0):
            assert session.rewind_point(position) == position
        for position in (224, 200, 65):
            assert session.rewind_point(position) == 0
            with pytest.raises(UserError, match=rf"cannot rewind from token 300 to {position}: .* 4 bits"):
                session.rewind(position)
        assert session.position == 300
        for position in (288, 64):
            session.rewind(position)
            np.testing.assert_array_equal(session.feed(LONG[position:]), expected)
        session.rewind(0)
        session.feed(LONG[:190])
        session.rewind(130)  # the ring has not turned yet
        np.testing.assert_array_equal(session.feed(LONG[130:]), expected)


def sliding_window_twin(tmp_path: Path, window: int):
    """A tiny Mistral with a sliding window, by transformers, and our weights of it."""
    torch = pytest.importorskip("torch")
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=512, sliding_window=window,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = MistralForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    build_weights(tmp_path, "raw", tmp_path / "weights.ptd")
    return model


def test_sliding_window_sees_what_transformers_sees(tmp_path):
    torch = pytest.importorskip("torch")
    model = sliding_window_twin(tmp_path, window=9)
    ids = np.random.default_rng(1).integers(0, 64, 40).astype(np.int32)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].float().numpy()
    with Model(tmp_path / "weights.ptd") as ours, ours.session(kv_type="f16", prefill_chunk=40, all_logits=True) as s:
        assert relative(s.feed_all(ids), expected) < 5e-3


@pytest.mark.parametrize("window", [9, 100, 150])
def test_int4_with_a_window_in_every_order_of_feeding_and_in_a_state(tmp_path, window):
    """Windows that end in the last positions of 8 bits, and behind them: the first tile leaves them, too."""
    sliding_window_twin(tmp_path, window)
    ids = np.random.default_rng(1).integers(0, 64, 400).astype(np.int32)
    with Model(tmp_path / "weights.ptd") as scalar, scalar.session(context=400, kv_type="f16") as session:
        exact = session.feed(ids).copy()
    logits = []
    for kernels, threads, chunk, context in (
        ("scalar", 1, 40, 400),
        (None, 1, 1, 400),
        (None, 2, 7, 500),
        (None, 2, 256, 512),
    ):
        with (
            Model(tmp_path / "weights.ptd", kernels) as model,
            model.session(context=context, threads=threads, prefill_chunk=chunk, kv_type="int4") as session,
        ):
            session.feed(ids[:300])
            session.save(ids[:300], tmp_path / "a.state")
            logits.append(session.feed(ids[300:]).copy())
            session.rewind(0)
            session.feed(ids[::-1])
            session.resume(tmp_path / "a.state")
            logits.append(session.feed(ids[300:]).copy())
    for other in logits[1:]:
        np.testing.assert_array_equal(logits[0], other)
    assert relative(logits[0], exact) < 0.05
