"""The planner: candidates, allocation, budgets and refusals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.codecs import Stats, StreamCodec, codec_by_name, codec_for
from mobile_bundle.codecs.blob import FLAG_E4M4
from mobile_bundle.codecs.propagation import row_gains
from mobile_bundle.codecs.registry import GAUSSIAN_ERROR, try_candidates
from mobile_bundle.errors import UserError
from mobile_bundle.models import Model, TensorSpec, open_model
from mobile_bundle.planning.allocate import allocate
from mobile_bundle.planning.budget import Budget, Measure, Planner, Sizes
from mobile_bundle.planning.candidates import Candidate, Losses, candidates, decode_cost
from mobile_bundle.planning.recipe import Recipe
from mobile_bundle.planning.recipe_file import fixed_codecs, read_recipe_file
from mobile_bundle.planning.sharing import codebook_headers, sharing
from mobile_bundle.planning.sizes import manifest_bound, plan_table, sizes_of
from support.builds import build
from support.paths import EXAMPLE

RAW = codec_by_name("raw")


@pytest.mark.parametrize("name", GAUSSIAN_ERROR)
def test_the_table_of_errors_is_true(name: str) -> None:
    weight = np.random.default_rng(2).standard_normal((640, 1024)).astype(np.float32)
    # As a plan's tensors are coded: with moments of the inputs. Without, affine codes mind the large weights first.
    stats = Stats(hessian=np.eye(1024, dtype=np.float32)) if name.startswith("affine") else None
    blob = codec_by_name(name).encode(weight, stats)
    error = np.square(codec_for(blob.header).decode(blob) - weight).sum() / np.square(weight).sum()
    assert abs(error / GAUSSIAN_ERROR[name] - 1) < 0.06


def test_trials_are_what_coding_does() -> None:
    """With inputs of very different energy."""
    generator = np.random.default_rng(4)
    weight = generator.standard_normal((64, 192)).astype(np.float32) * np.float32(0.03)
    inputs = generator.standard_normal((1000, 192)) * np.exp(generator.standard_normal(192))
    stats = Stats(hessian=(inputs.T @ inputs / 1000).astype(np.float32))
    assert stats.hessian is not None
    tried = try_candidates(weight, stats.hessian, GAUSSIAN_ERROR)
    assert set(tried) == set(GAUSSIAN_ERROR)
    for name, errors in tried.items():
        blob = codec_by_name(name).encode(weight, stats)
        difference = codec_for(blob.header).decode(blob) - weight
        coded = np.einsum("rc,cd,rd->r", difference, stats.hessian, difference)
        # Where scales are bytes, codes are chosen again after they were rounded, which a trial leaves out.
        coarse = codec_by_name(name).flags & FLAG_E4M4
        assert errors.sum() == pytest.approx(coded.sum(), rel=0.03 if coarse else 0.02)
        assert np.corrcoef(errors, coded)[0, 1] > (0.95 if coarse else 0.99), name


def test_coded_rows_keep_their_strength() -> None:
    """Codes of least squared error answer too weakly; calibrated ones are scaled so that W H W'^T is W H W^T."""
    generator = np.random.default_rng(5)
    weight = generator.standard_normal((64, 256)).astype(np.float32)
    hessian = np.eye(256, dtype=np.float32)
    two_bits = "affine-2bit-g64-asym", "vptq-v4-b8", "trellis-2bit", "trellis-2bit-g64"
    between = "trellis-2.5bit", "trellis-2.5bit-g128"
    three = "affine-3bit", "affine-3bit-g32-e4m4", "trellis-3bit", "trellis-3bit-g64"
    limits = (two_bits, 0.95), (between, 0.97), (three, 0.985)
    for name, weakest in [(name, weakest) for names, weakest in limits for name in names]:
        strengths = {}
        for kind, stats in (("free", Stats()), ("calibrated", Stats(hessian))):
            blob = codec_by_name(name).encode(weight, stats)
            coded = codec_for(blob.header).decode(blob)
            strengths[kind] = np.einsum("rc,rc->r", weight, coded) / np.einsum("rc,rc->r", weight, weight)
        assert strengths["free"].mean() < weakest
        bytes_ = codec_by_name(name).flags & FLAG_E4M4
        np.testing.assert_allclose(strengths["calibrated"], 1, atol=0.03 if bytes_ else 2e-3)
        assert abs(strengths["calibrated"].mean() - 1) < (0.01 if bytes_ else 1e-3)
    assert (row_gains(weight, weight, weight @ hessian) == 1).all()
    assert (row_gains(weight, 0 * weight, weight @ hessian) == 1).all()  # a row that is lost is not blown up


def test_candidates_are_a_convex_curve() -> None:
    tensor = TensorSpec("layers.0.mlp.up.weight", "x", "body", 2048, 768, 0)
    curve = candidates(tensor, Losses(0.5))
    assert len(curve) >= 5
    assert curve[0].codec.name == "trellis-2bit-g128-e4m4"
    assert curve[-1].codec.name == "affine-8bit"
    slopes = [(b.loss - a.loss) / (b.bytes - a.bytes) for a, b in itertools.pairwise(curve)]
    assert all(a < b < 0 for a, b in itertools.pairwise(slopes))


def test_a_codec_without_loss_ends_the_curve() -> None:
    tensor = TensorSpec("layers.0.mlp.up.weight", "x", "body", 2048, 768, 0)
    exact = codec_by_name("affine-4bit-g32-asym")
    curve = candidates(tensor, Losses(0.5), exact)
    assert curve[-1].codec is exact
    assert curve[-1].loss == 0
    assert all(each.bytes < curve[-1].bytes for each in curve[:-1])
    assert candidates(tensor, Losses(0.5))[-1].loss > 0


def test_a_measured_error_comes_before_the_table() -> None:
    tensor = TensorSpec("layers.0.mlp.up.weight", "x", "body", 2048, 768, 0)
    losses = Losses(0.5, {"affine-3bit-g64-e4m4": 1e-6})
    assert losses.of("affine-3bit-g64-e4m4") == 1e-6
    assert losses.of("affine-4bit-g64-e4m4") == 0.5 * GAUSSIAN_ERROR["affine-4bit-g64-e4m4"]
    curve = candidates(tensor, losses)
    assert curve[-1].codec.name == "affine-3bit-g64-e4m4"


def test_rounded_inputs_are_predicted_by_the_groups_of_the_code() -> None:
    losses = Losses(share=2.0, inputs={32: 0.1, 64: 0.2, 128: 0.3, 0: 0.4})
    for name, inputs in (
        ("affine-8bit", 0.1),
        ("affine-4bit-g64-asym", 0.2),
        ("trellis-3bit", 0.2),
        ("trellis-3bit-g128-e4m4", 0.3),
        ("bitnet", 0.4),
        ("affine-8bit+entropy", 0.1),
        ("raw", 0.0),
    ):
        assert losses.predicted(1.0, codec_by_name(name)) == pytest.approx(2.0 + inputs), name


def test_a_dear_code_leaves_the_curve() -> None:
    tensor = TensorSpec("layers.0.mlp.up.weight", "x", "body", 2048, 768, 0)
    weights = 2048 * 768
    for each in candidates(tensor, Losses(0.5)):
        assert each.time == decode_cost(each.codec) * weights
        assert each.cost == each.loss
    curve = candidates(tensor, Losses(0.5), price=1 / weights)
    assert not any(each.codec.name.startswith("trellis") for each in curve[1:])
    assert all(each.cost == pytest.approx(each.loss + decode_cost(each.codec)) for each in curve)
    looked_up = candidates(tensor, Losses(0.5), price=1 / weights, lookup=True)
    assert [each.codec.name for each in looked_up] == [each.codec.name for each in candidates(tensor, Losses(0.5))]


def test_the_cost_of_a_stored_form_is_that_of_what_it_becomes() -> None:
    assert decode_cost(codec_by_name("seedlm-4bit")) == decode_cost(codec_by_name("affine-8bit"))
    assert decode_cost(codec_by_name("affine-4bit+entropy")) == 1


def random_options(generator: np.random.Generator) -> dict[str, list[Candidate]]:
    """Four tensors of four candidates each, convex as candidates() makes them."""
    options = {}
    for name in "abcd":
        sizes = np.cumsum(generator.integers(1, 9, 4))
        rates = np.sort(generator.uniform(0.1, 1, 3))[::-1]  # loss saved per byte
        losses = 20 - np.concatenate([[0], np.cumsum(rates * np.diff(sizes))])
        options[name] = [Candidate(RAW, float(s), float(x)) for s, x in zip(sizes, losses, strict=True)]
    return options


@pytest.mark.parametrize("seed", range(30))
def test_allocation_against_every_choice(seed: int) -> None:
    """For every limit from the cheapest choice to the dearest, beside the best of all 256 choices: equal to it wherever
    a run of the best steps uses the limit up, elsewhere less than one step behind; nothing is left that would fit."""
    options = random_options(np.random.default_rng(seed))
    largest_step = max(a.loss - b.loss for each in options.values() for a, b in itertools.pairwise(each))

    def bytes_and_loss(levels: Mapping[str, int]) -> tuple[float, float]:
        taken = [options[name][level] for name, level in levels.items()]
        return sum(each.bytes for each in taken), sum(each.loss for each in taken)

    every = [dict(zip(options, levels, strict=True)) for levels in itertools.product(range(4), repeat=4)]
    known = [bytes_and_loss(levels) for levels in every]
    # The corners of the lower convex hull of (bytes, loss): only these can be reached without a left-over.
    corners = lower_hull(known)
    least, most = known[0][0], known[-1][0]
    exact = 0
    for limit in np.arange(least, most + 1):
        chosen = allocate(options, lambda levels, limit=limit: bytes_and_loss(levels)[0] <= limit)  # type: ignore[misc]
        size, loss = bytes_and_loss(chosen)
        assert size <= limit
        best = min(loss for size, loss in known if size <= limit)
        if limit in corners:
            assert loss == pytest.approx(best, abs=1e-9)
            exact += 1
        assert best - 1e-9 <= loss < best + largest_step
        for name, level in chosen.items():
            assert level == 3 or bytes_and_loss({**chosen, name: level + 1})[0] > limit
    assert exact == len(corners) == 13  # 12 steps, one after another


def lower_hull(points: list[tuple[float, float]]) -> dict[float, float]:
    """The corners of the lower convex hull, as {x: y}."""
    hull: list[tuple[float, float]] = []
    for x, y in sorted({x: min(b for a, b in points if a == x) for x, _ in points}.items()):
        while len(hull) > 1 and (y - hull[-1][1]) * (hull[-1][0] - hull[-2][0]) <= (hull[-1][1] - hull[-2][1]) * (
            x - hull[-1][0]
        ):
            hull.pop()
        hull.append((x, y))
    return dict(hull)


def plan_for(model: Model, budget: Budget, fixed: Mapping[str, StreamCodec] | None = None):
    measure = sizes_of(model.spec, model.tensors, 80_000, {}, {})
    losses = {tensor.name: Losses(0.01 * (1 + tensor.layer)) for tensor in model.tensors}
    return Planner(budget, model.tensors, model.spec, fixed or {}, measure).plan(losses, 2.9, {}), measure


def test_plans_keep_to_their_budgets() -> None:
    with open_model(EXAMPLE) as model:
        losses = []
        for size in (1_900_000, 2_400_000, 3_300_000, 4_500_000):
            plan, measure = plan_for(model, Budget(max_size=size))
            assert plan.sizes == measure(plan.assignment)
            assert plan.sizes.total <= size
            assert plan.sizes.total > 0.97 * size or plan.loss < 1e-4
            losses.append(plan.loss)
            for name in sharing(model.tensors, plan.assignment):
                assert name in codebook_headers(model.tensors, plan.assignment)
            table = plan_table(plan, model.tensors)
            assert any("MB" in line for line in table)
            rows = [line.split() for line in table if line.startswith(("layers.", "embedding"))]
            kinds = list(dict.fromkeys(row[0].removeprefix("layers.*.") for row in rows))
            expected = [t.name.removeprefix("layers.0.") for t in model.tensors if t.role != "vector" and t.layer <= 0]
            assert kinds == expected
            assert rows == sorted(rows, key=lambda row: kinds.index(row[0].removeprefix("layers.*.")))
            for kind in kinds:
                bits = [float(row[4]) for row in rows if row[0].endswith(kind)]
                assert bits == sorted(bits, reverse=True)
        assert losses == sorted(losses, reverse=True)
        peak = plan_for(model, Budget(max_size=3_300_000))[0].sizes.peak
        assert plan_for(model, Budget(max_ram=peak))[0].sizes.peak <= peak
        wanted = math.exp(2.9 + 0.03)
        plan, _ = plan_for(model, Budget(max_perplexity=wanted))
        assert plan.perplexity <= wanted
        smaller, _ = plan_for(model, Budget(max_size=int(0.95 * plan.sizes.total)))
        assert smaller.perplexity > wanted  # not larger than it has to be


def test_plans_keep_to_a_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual one where nobody asks, as far as the size allows it; an asked one always. (Plans of this
    model, tried from 2.05 to 3 MB, are all faster than the real usual speed, so the test sets another.)"""
    monkeypatch.setattr("mobile_bundle.planning.budget.USUAL_SPEED", 0.6)
    with open_model(EXAMPLE) as model:
        size = 2_400_000
        slowest, _ = plan_for(model, Budget(size, min_speed=0))
        usual, _ = plan_for(model, Budget(size))
        fast, _ = plan_for(model, Budget(size, min_speed=1))
        assert slowest.speed < 0.6 <= usual.speed < 1 <= fast.speed
        assert slowest.loss < 1.01 * usual.loss  # steps of the best rate leave bytes over, here or there
        assert usual.loss < fast.loss
        assert fast.sizes.total <= size
        time = sum(
            decode_cost(fast.assignment[tensor.name]) * tensor.rows * tensor.columns
            for tensor in model.tensors
            if tensor.role != "vector"
        )
        assert fast.speed == sum(t.rows * t.columns for t in model.tensors if t.role != "vector") / time
        with pytest.raises(UserError, match=r"`min_speed` 9 cannot be met: the fastest code decodes at 2.5 times"):
            plan_for(model, Budget(size, min_speed=9))
        with pytest.raises(UserError, match=r"`min_speed` 2 cannot be met within the other limits"):
            plan_for(model, Budget(size, min_speed=2))
        accurate, _ = plan_for(model, Budget(max_perplexity=math.exp(2.9 + 0.03), min_speed=0.9))
        assert accurate.speed >= 0.9
        assert accurate.loss <= 0.03


def test_sensitive_tensors_get_more_bits() -> None:
    with open_model(EXAMPLE) as model:
        plan, _ = plan_for(model, Budget(max_size=2_400_000))
        bits = {
            tensor.name: plan.assignment[tensor.name].bits_per_weight(tensor.rows, tensor.columns)
            for tensor in model.tensors
            if tensor.name.endswith("mlp.up.weight")
        }
        assert bits["layers.5.mlp.up.weight"] > bits["layers.0.mlp.up.weight"]


def test_what_a_recipe_file_fixes_stays(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text('tensors:\n  "layers.0.*": affine-8bit\n  "*.mlp.down.weight": vptq-v4-b10\n', "utf-8")
    recipe = read_recipe_file(path)
    with open_model(EXAMPLE) as model:
        fixed = fixed_codecs(recipe, model.tensors)
        assert fixed["layers.0.mlp.down.weight"].name == "affine-8bit"
        assert fixed["layers.3.mlp.down.weight"].name == "vptq-v4-b10"
        assert "layers.3.mlp.up.weight" not in fixed
        plan, _ = plan_for(model, Budget(max_size=3_000_000), fixed)
        assert all(plan.assignment[name] is codec for name, codec in fixed.items())
        with pytest.raises(UserError, match=r"matches no matrix"):
            fixed_codecs(Recipe("", "", (("layers.99.*", "raw"),)), model.tensors)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a mapping"),
        ("- a", "must be a mapping"),
        ("body: [1", "is not valid YAML"),
        ("body: affine-7bit", "unknown codec"),
        ("boddy: raw", "unknown key 'boddy'"),
        ("tensors: 3", "must map"),
        ("body: raw\nbody: affine-4bit", "the key 'body' twice"),
        ("tensors: {a: raw, a: bitnet}", "the key 'a' twice"),
        ("entropy: perhaps", "true or false"),
        ("tensors: {a: 3}", "unknown codec"),
        ("tensors: {a: [raw]}", "more than two levels"),
        ("body: [raw]", "must be a codec name"),
    ],
)
def test_bad_recipe_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(UserError, match=message):
        read_recipe_file(path)
    with pytest.raises(UserError, match="cannot read"):
        read_recipe_file(tmp_path / "none.yaml")


class _Shape:
    """Qwen2.5-1.5B's tensors without a checkpoint."""

    def __init__(self) -> None:
        from mobile_bundle.planning.estimate import published_shape

        subject = published_shape("1.5b")
        self.spec, self.tensors, self.tokenizer_bytes = subject.spec, list(subject.tensors), subject.tokenizer_bytes

    def measure(self) -> Measure:
        return sizes_of(self.spec, self.tensors, self.tokenizer_bytes, {}, {})


def test_an_impossible_wish_is_refused_with_the_arithmetic() -> None:
    shape = _Shape()
    with pytest.raises(UserError) as refusal:
        Planner(Budget(max_size=2_400_000), shape.tensors, shape.spec, {}, shape.measure())
    text = str(refusal.value)
    assert "2.4 MB cannot be met" in text
    assert "that leaves 0.0124 bits per weight for 1.544 billion weights" in text
    assert "The smallest plan takes" in text
    assert "\n" not in text
    with open_model(EXAMPLE) as small, pytest.raises(UserError, match=r"weight for 5\.8 million weights"):
        Planner(Budget(max_size=100_000), small.tensors, small.spec, {}, sizes_of(small.spec, small.tensors, 0, {}, {}))
    with pytest.raises(UserError, match=r"`max_ram` 100\.0 MB cannot be met"):
        Planner(Budget(max_ram=100_000_000), shape.tensors, shape.spec, {}, shape.measure())
    Planner(Budget(max_size=480_000_000), shape.tensors, shape.spec, {}, shape.measure())


def test_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be met"):
        build(EXAMPLE, tmp_path / "x.mbundle", budget=Budget(max_size=1_000_000))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="a recipe fixes every tensor"):
        build(EXAMPLE, tmp_path / "x.mbundle", "affine-4bit", budget=Budget(max_size=10**7))


def test_a_perplexity_below_the_models_own_is_refused() -> None:
    with open_model(EXAMPLE) as model, pytest.raises(UserError, match="uncompressed model has"):
        plan_for(model, Budget(max_perplexity=2.0))


def test_sizes_add_up() -> None:
    assert Sizes({"a": 1, "b": 2}, 9).total == 3
    assert manifest_bound(75) > 18_458  # what base's manifest takes
    assert not Budget()
    assert Budget(max_perplexity=3.0)
