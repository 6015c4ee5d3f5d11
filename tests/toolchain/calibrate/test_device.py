"""Calibration on a GPU: the same code on a stand-in for one, which fails as a GPU does where devices are mixed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mobile_bundle.api.build import build as build_by_api
from mobile_bundle.corpus.text import DEFAULT_TEXT, read_text
from mobile_bundle.errors import ArgumentError, InstallationError, ResumableError
from mobile_bundle.models import open_model
from mobile_bundle.pipeline.parts import finished_parts, parts_directory
from mobile_bundle.planning.budget import Budget
from mobile_bundle.planning.recipe import Recipe
from support.builds import build, bundle
from support.checkpoints import write_tiny
from support.paths import EXAMPLE

torch = pytest.importorskip("torch")

from mobile_bundle.calibrate.decoder import fast_product  # noqa: E402
from mobile_bundle.calibrate.head import Head  # noqa: E402
from mobile_bundle.calibrate.profile import profile_model  # noqa: E402
from mobile_bundle.calibrate.walk import Walk, layer_weights, moved, read_matrix, tensor_named  # noqa: E402
from mobile_bundle.cli.build import main  # noqa: E402
from support.stand_in_gpu import stand_in_gpu  # noqa: E402

FAMILIES = [
    "llama-untied-biases",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("gemma3", "gemma2", "lfm2", "exaone4-hybrid", "bitnet")),
]
"""Between them: biases, an output head of its own, windows, soft caps, convolutions, layers that are not rotated, int8
activations."""


def tokens(count: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(3, 512, (count, length)).astype(np.int32)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_profile_is_the_processors(tmp_path: Path, name: str) -> None:
    """To the precision of products in bfloat16, which not every processor takes, and of tokens that are drawn: where a
    probability is on an edge, another token is drawn (Head.gradients), one of 192 here."""
    windows = tokens(4, 48)
    with open_model(write_tiny(tmp_path / "model", name)) as model:
        here = profile_model(model, windows, windows, ["affine-3bit"])
        with stand_in_gpu() as gpu:
            there = profile_model(model, windows, windows, ["affine-3bit"], device=torch.device(gpu))
    assert there.loss == pytest.approx(here.loss, rel=1e-3)
    assert there.matrices.keys() == here.matrices.keys()
    for matrix, known in here.matrices.items():
        found = there.matrices[matrix]
        assert found.sensitivity == pytest.approx(known.sensitivity, rel=0.15), matrix
        assert found.losses == pytest.approx(dict(known.losses), rel=0.2), matrix
    # As a whole: a probability on an edge lets another token be drawn (Head.gradients), which moves single entries.
    apart = np.linalg.norm(there.embedding_hessian - here.embedding_hessian)
    assert apart < 0.05 * np.linalg.norm(here.embedding_hessian)


@pytest.mark.parametrize("name", ["llama-untied-biases", "lfm2"])
def test_what_codecs_get_stays_on_the_gpu(tmp_path: Path, name: str) -> None:
    windows = tokens(5, 32)
    with open_model(write_tiny(tmp_path / "model", name)) as model, stand_in_gpu() as gpu:
        device = torch.device(gpu)
        embedding = read_matrix(model, tensor_named(model, "embedding.weight"))
        weights = layer_weights(model, 0)
        here = Walk(model, windows, embedding, fast_product(device))
        walk, reference = (Walk(model, windows, embedding, fast_product(device), device) for _ in range(2))
        expected = here.hessians(weights)
        for stage, hessian, drift in walk.stages(moved(weights, device), reference):
            assert hessian.device == drift.device == device
            close = 0.01 * np.abs(expected[stage]).max()
            np.testing.assert_allclose(hessian.cpu().numpy(), expected[stage], rtol=0.02, atol=close)
            assert float(drift.abs().max()) < 1e-4
        head = Head.of(model, embedding, device)
        ids = torch.from_numpy(windows.astype(np.int64))
        own = head.gradients(walk.hidden, ids.to(device))
        _, gradient, squares = Head.of(model, embedding).gradients(walk.hidden.cpu(), ids)
        torch.testing.assert_close(own[1].cpu(), gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))
        np.testing.assert_allclose(own[2], squares, rtol=1e-4)
        same = head.measure(walk, head, reference)
        assert same.loss == pytest.approx(same.original_loss, rel=1e-4)
        assert abs(same.kl) < 1e-5


@pytest.mark.slow
def test_a_plan_is_the_processors(tmp_path: Path) -> None:
    """The same codec for the matrices, but for a near tie at the edge of the budget, and a bundle that is as good."""
    text = tmp_path / "text.txt"
    text.write_text(read_text(DEFAULT_TEXT)[:16000])
    budget = Budget(max_size=2_170_000)
    here = build(EXAMPLE, tmp_path / "here.mbundle", budget=budget, calibration=text)
    with stand_in_gpu() as gpu:
        there = build(EXAMPLE, tmp_path / "there.mbundle", budget=budget, calibration=text, device=gpu)
    codecs = [[each["codec"] for each in manifest["tensors"]] for manifest in (here, there)]
    others = [(own, other) for own, other in zip(*codecs, strict=True) if own != other]
    assert len(others) <= 8, others  # of 43, at the edge of the budget
    assert any(name.startswith("trellis") for name in codecs[0])
    lost = [each["measured"]["kl"] for each in (here, there)]  # of 511 tokens the loss itself says too little
    assert lost[1] == pytest.approx(lost[0], rel=0.15)
    sizes = [(tmp_path / f"{name}.mbundle" / "weights.ptd").stat().st_size for name in ("here", "there")]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def test_a_recipe_is_calibrated_there(tmp_path: Path) -> None:
    """Every kind of code at once: affine, trellis, vectors with a codebook of their own. Two jobs are threads: another
    process could not read the GPU's tensors."""
    text = tmp_path / "text.txt"
    text.write_text(read_text(DEFAULT_TEXT)[:6000])
    model = write_tiny(tmp_path / "model", "llama-untied-biases")
    recipe = Recipe("affine-3bit", "affine-4bit", (("*.mlp.*", "trellis-2bit"), ("*.value.weight", "vptq-2bit")))
    with stand_in_gpu() as gpu:
        there = bundle(model, tmp_path / "there.mbundle", recipe, calibration=text, device=gpu, jobs=2)
    here = bundle(model, tmp_path / "here.mbundle", recipe, calibration=text)
    for own, other in zip(there["tensors"], here["tensors"], strict=True):
        assert own["codec"] == other["codec"]
        assert own["relative_error"] == pytest.approx(other["relative_error"], rel=0.2)
    assert there["measured"]["original_loss"] == pytest.approx(here["measured"]["original_loss"], rel=1e-4)
    assert 0.5 < there["measured"]["kl"] / here["measured"]["kl"] < 2


def test_too_little_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a matrix is coded, in a thread of its own: what was coded before it is kept."""
    text = tmp_path / "text.txt"
    text.write_text(read_text(DEFAULT_TEXT)[:6000])
    model = write_tiny(tmp_path / "model", "llama-untied-biases")

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("mobile_bundle.codecs.trellis.fit_propagated", full)
    recipe = Recipe("affine-3bit", "affine-4bit", (("*.mlp.down.weight", "trellis-2bit"),))
    out = tmp_path / "x.mbundle"
    with pytest.raises(ResumableError, match="`device` cuda: the GPU has too little memory; end other programs"):
        bundle(model, out, recipe, calibration=text)
    assert "layers.0.attention.query.weight" in finished_parts(parts_directory(out))
    assert not out.exists()


def test_no_gpu_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "x.mbundle"
    with pytest.raises(SystemExit) as ended:
        main([str(EXAMPLE), "-o", str(out), "--max-size", "4MB", "--device", "cuda"])
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line == (
        "build-mobile-bundle: --device cuda: torch sees no GPU: use cpu, or install a driver and torch for CUDA\n"
    )
    with pytest.raises(InstallationError, match="torch sees no GPU"):
        build_by_api(EXAMPLE, out, max_size="4MB", device="cuda")
    with pytest.raises(ArgumentError, match="must be cpu or cuda"):
        build_by_api(EXAMPLE, out, max_size="4MB", device="tpu")
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_would_do_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ArgumentError, match="`device` is for calibration"):
        build_by_api(EXAMPLE, tmp_path / "x.mbundle", recipe="affine-4bit", device="cuda")
    with pytest.raises(ArgumentError, match="together with `cluster`"):
        build_by_api(EXAMPLE, tmp_path / "x.mbundle", max_size="4MB", device="cuda", cluster="tcp://127.0.0.1:1")
    assert not list(tmp_path.iterdir())
