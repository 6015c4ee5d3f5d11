"""Calibration: the decoder in torch, what the profile says, and that calibrated bundles are better on other text."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mobile_bundle.corpus.calibration import calibration_windows
from mobile_bundle.corpus.text import DEFAULT_TEXT, read_text
from mobile_bundle.corpus.windows import token_windows
from mobile_bundle.errors import UserError
from mobile_bundle.evaluate.perplexity import measure
from mobile_bundle.models import open_model
from mobile_bundle.pipeline.uncompressed import open_for_evaluation
from mobile_bundle.planning.budget import Budget
from mobile_bundle.tokenizer import compile_tokenizer
from support.builds import build
from support.checkpoints import ALL, tiny_model, write_tiny
from support.paths import EXAMPLE, VALIDATION_TEXT

torch = pytest.importorskip("torch")

from mobile_bundle.calibrate import profile  # noqa: E402
from mobile_bundle.calibrate.decoder import fast_product, normalise, readers, soft_cap  # noqa: E402
from mobile_bundle.calibrate.head import Head, drawn_tokens  # noqa: E402
from mobile_bundle.calibrate.profile import profile_model  # noqa: E402
from mobile_bundle.calibrate.threads import one_thread_each  # noqa: E402
from mobile_bundle.calibrate.walk import Walk, layer_weights, read_matrix, tensor_named  # noqa: E402


def tokens(count: int, length: int, vocabulary: int = 512) -> np.ndarray:
    return np.random.default_rng(0).integers(3, vocabulary, (count, length)).astype(np.int32)


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("bitnet")])
def test_the_decoder_is_transformers(tmp_path: Path, name: str) -> None:
    pytest.importorskip("transformers")
    reference = tiny_model(name)
    windows = tokens(2, 40)
    with torch.no_grad():
        expected = reference(torch.from_numpy(windows.astype(np.int64))).logits.numpy()
    with open_model(write_tiny(tmp_path / name, name)) as model:
        by_name = {tensor.name: tensor for tensor in model.tensors}
        walk = Walk(model, windows, read_matrix(model, by_name["embedding.weight"]))
        for layer in range(model.spec.layers):
            walk.advance(layer_weights(model, layer))
        norm = torch.from_numpy(read_matrix(model, by_name["norm.weight"])[0])
        head = by_name.get("output.weight", by_name["embedding.weight"])
        logits = normalise(walk.hidden, norm, model.spec.norm_epsilon) @ torch.from_numpy(read_matrix(model, head)).T
        logits = soft_cap(logits, model.spec.logit_cap)
        assert np.linalg.norm(logits.numpy() - expected) < 1e-4 * np.linalg.norm(expected)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """To the precision of products in bfloat16, which processors that can do them take."""
    assert np.linalg.norm(found - expected) < 1.5e-2 * np.linalg.norm(expected)
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=5e-3 * np.abs(expected).max())


def test_hessians_and_gradients(tmp_path: Path) -> None:
    """Against autograd through transformers' whole model."""
    pytest.importorskip("transformers")
    reference = tiny_model("llama-untied-biases")
    windows = tokens(3, 32)
    ids = torch.from_numpy(windows.astype(np.int64))
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: object, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            seen[f"{name}.in"] = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
            output.retain_grad()
            seen[f"{name}.out"] = output

        return hook

    layer = reference.model.layers[1]
    layer.mlp.down_proj.register_forward_hook(keep("down"))
    layer.self_attn.k_proj.register_forward_hook(keep("key"))
    logits = reference(ids).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 512), ids[:, 1:].reshape(-1), reduction="sum")
    loss.backward()
    with open_model(write_tiny(tmp_path / "model", "llama-untied-biases")) as model:
        profile = profile_model(model, windows, windows)
        assert profile.loss == pytest.approx(float(loss) / (3 * 31), rel=1e-4)
        for key, name in (("down", "layers.1.mlp.down.weight"), ("key", "layers.1.attention.key.weight")):
            grad = seen[f"{key}.out"].grad
            assert grad is not None
            squares = grad.reshape(-1, grad.shape[-1]).square().mean(0).numpy()
            assert_close(profile.matrices[name].row_weights, squares)
        walk = Walk(model, windows, read_matrix(model, model.tensors[2]))
        walk.advance(layer_weights(model, 0))
        x = seen["down.in"]
        hessian = walk.hessians(layer_weights(model, 1))["mlp.down"]
        assert_close(hessian, (x.T @ x / len(x)).numpy())
        assert all(known.sensitivity > 0 for known in profile.matrices.values())
        assert set(profile.matrices) == {t.name for t in model.tensors if t.role != "vector"}


def test_tokens_are_drawn_by_their_probability() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.2, 0.3]).repeat(4000, 1)
    drawn = drawn_tokens(probabilities, seed=7)
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert shares[1] == 0
    torch.testing.assert_close(shares, probabilities[0], atol=0.03, rtol=0)
    assert torch.equal(drawn, drawn_tokens(probabilities, seed=7))
    assert not torch.equal(drawn, drawn_tokens(probabilities, seed=8))


@pytest.mark.parametrize("name", ["llama-untied-biases", "lfm2"])
def test_stages_see_what_is_coded_so_far(tmp_path: Path, name: str) -> None:
    """Each input is that of a layer whose earlier matrices are the new ones already."""
    windows = tokens(5, 32)
    with open_model(write_tiny(tmp_path / "model", name)) as model:
        embedding = read_matrix(model, tensor_named(model, "embedding.weight"))
        walk, reference, plain, mixed = (Walk(model, windows, embedding) for _ in range(4))
        weights = layer_weights(model, 0)
        original = plain.hessians(dict(weights))
        changed: dict[str, torch.Tensor] = {}
        for stage, hessian, drift in walk.stages(weights, reference):
            for projection in readers(stage, weights):
                matrix = f"{projection}.weight"
                weights[matrix] = changed[matrix] = weights[matrix] * 1.1
            if stage == "attention":
                np.testing.assert_allclose(hessian, original[stage], rtol=1e-4, atol=1e-7)
                assert np.abs(drift).max() < 1e-6
            else:
                assert np.abs(hessian - original[stage]).max() > 1e-3 * np.abs(hessian).max()
                assert np.abs(drift).max() > 1e-4
            last = hessian
        whole = mixed.hessians(layer_weights(model, 0) | changed)
        np.testing.assert_allclose(last, whole["mlp.down"], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(walk.hidden, mixed.hidden)
        torch.testing.assert_close(reference.hidden, plain.hidden)


def test_fast_products_are_products() -> None:
    """To the precision of bfloat16, where the processor has units for it."""
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(64, 96, generator=generator), torch.randn(32, 96, generator=generator)
    found, exact = fast_product()(x, weight), x.double() @ weight.double().T
    assert found.dtype == torch.float32
    assert float((found - exact).square().mean() / exact.square().mean()) < 2e-5


def test_a_profile_is_of_float32_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every processor: with factors rounded to bfloat16, gradients of the first tokens would be far off."""
    asked = []

    def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        asked.append(torch.is_grad_enabled())
        return torch.nn.functional.linear(x.bfloat16(), weight.bfloat16()).float()

    with open_model(write_tiny(tmp_path / "model", "llama-untied-biases")) as model:
        monkeypatch.setattr(profile, "fast_product", lambda device: torch.nn.functional.linear)
        exact = profile_model(model, tokens(7, 32), tokens(7, 32))
        monkeypatch.setattr(profile, "fast_product", lambda device: product)
        found = profile_model(model, tokens(7, 32), tokens(7, 32))
    assert asked  # of the text held out
    assert not any(asked)
    assert found.loss == exact.loss
    np.testing.assert_array_equal(found.embedding_hessian, exact.embedding_hessian)
    for name, matrix in exact.matrices.items():
        np.testing.assert_array_equal(found.matrices[name].row_weights, matrix.row_weights)


@pytest.mark.parametrize(
    ("capabilities", "wanted"),
    [
        ({"architecture": "x86_64", "amx_bf16": False}, "medium"),
        ({"architecture": "x86_64", "amx_bf16": True}, "highest"),
        ({"architecture": "aarch64"}, "highest"),
    ],
)
def test_float32_is_float32_on_every_processor(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any], wanted: str
) -> None:
    """The precision "medium" rounds to bfloat16 where a processor has fast units for it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    with one_thread_each():
        assert torch.get_float32_matmul_precision() == wanted


def test_the_measure_of_a_coded_model(tmp_path: Path) -> None:
    """Against transformers on both sides: the other model's head has its rows in disorder."""
    pytest.importorskip("transformers")
    name = "llama-untied-biases"
    reference = tiny_model(name)
    windows = tokens(3, 48)
    ids = torch.from_numpy(windows.astype(np.int64))
    with open_model(write_tiny(tmp_path / "model", name)) as model:
        walks = []
        for _ in range(2):
            walk = Walk(model, windows, read_matrix(model, tensor_named(model, "embedding.weight")))
            for layer in range(model.spec.layers):
                walk.advance(layer_weights(model, layer))
            walks.append(walk)
        weight = read_matrix(model, tensor_named(model, "output.weight"))
        heads = [Head.of(model, each) for each in (np.ascontiguousarray(weight[::-1]), weight)]
        measured = heads[0].measure(walks[0], heads[1], walks[1])
        same = heads[1].measure(walks[0], heads[1], walks[1])
    with torch.no_grad():
        original = torch.log_softmax(reference(ids).logits[:, :-1].double(), -1)
        reference.lm_head.weight.copy_(reference.lm_head.weight.flip(0).clone())
        own = torch.log_softmax(reference(ids).logits[:, :-1].double(), -1)
    targets = ids[:, 1:, None]
    assert measured.tokens == 3 * 47
    assert measured.original_loss == pytest.approx(-float(original.gather(2, targets).mean()), rel=1e-4)
    assert measured.loss == pytest.approx(-float(own.gather(2, targets).mean()), rel=1e-4)
    assert measured.kl == pytest.approx(float((original.exp() * (original - own)).sum(-1).mean()), rel=1e-3)
    assert measured.kl > 1e-3
    assert same.loss == same.original_loss
    assert same.kl == pytest.approx(0, abs=1e-6)


def test_inputs_are_rounded_in_groups(tmp_path: Path) -> None:
    """To 255 values per token and group, but where the engine does not round."""
    seen: dict[str, torch.Tensor] = {}
    groups = {"attention": 32, "attention.output": 0, "mlp": None, "mlp.down": 64}
    with open_model(write_tiny(tmp_path / "model", "llama-untied-biases")) as model:
        walk = Walk(model, tokens(2, 16), read_matrix(model, tensor_named(model, "embedding.weight")))
        runner = walk.runner(layer_weights(model, 0), 0, groups)
        with torch.no_grad():
            runner.forward(walk.hidden, lambda stage, x: seen.update({stage: x.clone()}))
    for stage, x in seen.items():
        group = groups[stage] or x.shape[-1]
        parts = torch.nn.functional.pad(x, (0, -x.shape[-1] % group)).unflatten(-1, (-1, group))
        codes = parts * (127 / parts.abs().amax(-1, keepdim=True))
        away = float((codes - codes.round()).abs().max())
        assert away > 0.4 if groups[stage] is None else away < 1e-3, stage


def test_calibrated_builds_measure_themselves(tmp_path: Path) -> None:
    """On windows that are not calibrated on, and rightly: the uncompressed model loses nothing but what int8 keys and
    values cost, 2 bits much; the same bytes and figures with one job and with two."""
    text = tmp_path / "calibration.txt"
    text.write_text(read_text(DEFAULT_TEXT)[:12_000], "utf-8")
    exact = build(EXAMPLE, tmp_path / "raw.mbundle", "raw", calibration=text)["measured"]
    assert exact["loss"] == pytest.approx(exact["original_loss"], abs=2e-3)
    assert 0 < exact["kl"] < 1e-3
    found = [build(EXAMPLE, tmp_path / "2.mbundle", "affine-2bit", calibration=text, jobs=jobs) for jobs in (1, 2)]
    assert found[0]["measured"]["original_loss"] == exact["original_loss"]
    assert found[0]["measured"]["loss"] > exact["loss"] + 0.2
    assert found[0]["measured"]["kl"] > 0.2
    assert found[0]["measured"] == found[1]["measured"]
    assert found[0]["files"]["weights.ptd"] == found[1]["files"]["weights.ptd"]
    with open_for_evaluation(tmp_path / "2.mbundle", lambda *_: None) as (model, tokenizer, bos):
        held_out = token_windows(tokenizer, bos, read_text(text), 512, 0)[3::7]
        perplexity = measure(model, held_out).perplexity
    assert math.log(perplexity) == pytest.approx(found[0]["measured"]["loss"], abs=5e-3)


def short_text(path: Path, length: int = 30_000) -> Path:
    path.write_text(read_text(DEFAULT_TEXT)[:length], "utf-8")
    return path


def perplexity(bundle: Path, text: str) -> float:
    with open_for_evaluation(bundle, lambda *_: None) as (model, tokenizer, bos):
        return measure(model, token_windows(tokenizer, bos, text, 512, 8)).perplexity


@pytest.mark.slow
def test_calibrated_bundles_are_better_on_other_text(tmp_path: Path) -> None:
    text = read_text(VALIDATION_TEXT)
    calibration = short_text(tmp_path / "calibration.txt")
    for recipe in ("vptq-2bit", "affine-3bit"):
        found = {}
        for kind, given in (("free", None), ("calibrated", calibration)):
            out = tmp_path / f"{recipe}-{kind}.mbundle"
            manifest = build(EXAMPLE, out, recipe, calibration=given)
            found[kind] = perplexity(out, text)
            assert any("calibrated on" in note for note in manifest["notes"]) == (kind == "calibrated")
        assert found["calibrated"] < 0.97 * found["free"]


@pytest.mark.slow
def test_a_planned_bundle(tmp_path: Path) -> None:
    """Within its size, better than a plain recipe that is larger, and as it was predicted and measured."""
    text = read_text(VALIDATION_TEXT)
    lines: list[str] = []
    out = tmp_path / "planned.mbundle"
    budget = Budget(max_size=2_400_000)
    manifest = build(
        EXAMPLE,
        out,
        budget=budget,
        calibration=short_text(tmp_path / "calibration.txt", 90_000),
        tell=lines.append,
    )
    stored = sum(path.stat().st_size for path in out.iterdir() if path.is_file())
    assert stored <= 2_400_000
    assert manifest["recipe"] == "planned"
    predicted = next(float(line.split()[2]) for line in lines if line.startswith("predicted loss"))
    measured = manifest["measured"]["kl"]
    assert predicted == pytest.approx(measured, rel=0.2)
    with open_for_evaluation(EXAMPLE, lambda *_: None) as (model, tokenizer, bos):
        original = measure(model, token_windows(tokenizer, bos, text, 512, 8)).perplexity
    assert math.log(perplexity(out, text) / original) == pytest.approx(
        measured, rel=0.35
    )  # of another text, and this one is short
    build(EXAMPLE, tmp_path / "plain.mbundle", "affine-3bit")
    assert (tmp_path / "plain.mbundle/weights.ptd").stat().st_size > (out / "weights.ptd").stat().st_size
    assert perplexity(out, text) < perplexity(tmp_path / "plain.mbundle", text)


def test_texts_that_are_of_no_use(tmp_path: Path) -> None:
    empty = tmp_path / "short.txt"
    empty.write_text("too short", "utf-8")
    with open_model(EXAMPLE) as model:
        tokenizer = compile_tokenizer(EXAMPLE, model.checkpoint.config)
        for path, message in ((empty, "less than one window"), (tmp_path / "none.txt", "cannot be read")):
            with pytest.raises(UserError, match=message):
                calibration_windows(tokenizer, path, model.spec.context)
