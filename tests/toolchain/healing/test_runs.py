"""Runs from the checkpoint to the healed one, on a model of 0.1 M weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mobile_bundle.cli.main import main
from mobile_bundle.codecs import codec_for
from mobile_bundle.codecs.formats import Format
from mobile_bundle.container import WeightsReader
from mobile_bundle.errors import (
    ArgumentError,
    InputError,
    NotFinite,
    OutOfMemory,
    OutputError,
    UnsupportedError,
    UserError,
)
from mobile_bundle.evaluate.perplexity import measure
from mobile_bundle.models import open_model
from mobile_bundle.native.engine import Model as NativeModel
from mobile_bundle.native.tokenizer import Tokenizer
from mobile_bundle.pipeline.request import BuildRequest
from mobile_bundle.pipeline.source import open_source
from support.builds import build
from support.checkpoints import write_tiny
from support.paths import EXAMPLE, VALIDATION_TEXT
from support.small_checkpoint import write_checkpoint

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from mobile_bundle import heal  # noqa: E402
from mobile_bundle.calibrate.walk import read_matrix  # noqa: E402
from mobile_bundle.healing import training  # noqa: E402
from mobile_bundle.healing.decoders import Original  # noqa: E402
from mobile_bundle.healing.evaluation import evaluate_held  # noqa: E402
from mobile_bundle.healing.progress import Trained  # noqa: E402
from mobile_bundle.healing.recipe import heal_codecs, heal_recipe  # noqa: E402
from mobile_bundle.healing.result import write_result  # noqa: E402
from mobile_bundle.healing.run import _out_of_memory  # noqa: E402
from mobile_bundle.healing.settings import Settings  # noqa: E402
from mobile_bundle.healing.start import make_student  # noqa: E402
from mobile_bundle.healing.text import text_sequences  # noqa: E402
from mobile_bundle.healing.training import Distillation  # noqa: E402

RECIPES = ("bitnet-row", "bitnet", "bitnet-1.25bit", "vptq-2bit", "affine-2bit", "affine-3bit")
SHORT: dict[str, Any] = {"own_tokens": 3200, "sequence": 32, "batch": 4, "tokens": 2560, "evaluations": 4, "rate": 3e-3}
"""20 steps."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    return write_checkpoint(tmp_path / "model", files={"LICENSE.txt": "ours"})


def text_windows(directory: Path, count: int, context: int) -> np.ndarray:
    """Of a text that the example model was not trained on, int32 (count, context)."""
    with open_source(BuildRequest(EXAMPLE, directory / "none")) as source:
        (directory / "tokenizer.bin").write_bytes(bytes(source.tokenizer.data))
        tokenizer = Tokenizer(directory / "tokenizer.bin")
        return text_sequences(VALIDATION_TEXT, tokenizer, source.tokenizer.bos, None, context)[:count]


def letters(directory: Path) -> Path:
    """A text of chance."""
    path = directory / "text.txt"
    path.write_bytes(np.random.default_rng(0).integers(97, 123, 12000).astype(np.uint8).tobytes())
    return path


def weights(path: Path) -> bytes:
    return (path / "model.safetensors").read_bytes()


def log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "training.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_build_stores_the_healed_weights_bit_for_bit(tmp_path: Path, model: Path, recipe: str) -> None:
    healed = heal(model, tmp_path / "healed", recipe=recipe, **SHORT)
    assert healed.lost == 0
    manifest = build(tmp_path / "healed", tmp_path / "b.mbundle")
    assert manifest["recipe"] == "exact"
    expected = Format.SPARSE_TERNARY if "1.25" in recipe else Format.TERNARY2
    others = {"affine-3bit": Format.AFFINE3, "affine-2bit": Format.AFFINE2, "vptq-2bit": Format.VECTOR}
    expected = others.get(recipe, expected)
    with open_model(tmp_path / "healed") as opened, WeightsReader(tmp_path / "b.mbundle" / "weights.ptd") as reader:
        for tensor in opened.tensors:
            if tensor.source:
                blob = reader.blob(tensor.name)
                own = read_matrix(opened, tensor)
                decoded = codec_for(blob.header).decode(blob)
                assert (decoded + np.float32(0)).tobytes() == own.tobytes(), tensor.name
                if tensor.role == "body":
                    assert blob.header.format == expected, tensor.name


def test_the_healed_model_is_nearer_to_the_original(tmp_path: Path, model: Path) -> None:
    told: list[Any] = []
    longer = SHORT | {"tokens": 10240}
    healed = heal(model, tmp_path / "healed", recipe="affine-2bit", progress=told.append, **longer)
    entries = log(healed.path)
    assert healed.held.kl < 0.9 * entries[0]["kl"]
    trained = [each for each in told if isinstance(each, Trained)]
    assert trained[-1].share == 1
    assert [each.kl for each in trained if each.kl is not None] == [each["kl"] for each in entries[:-1]]
    assert "tokens/s" in str(trained[0])
    facts = json.loads((healed.path / "healing.json").read_text())
    assert facts["held_out"]["kl"] == healed.held.kl
    assert (healed.path / "LICENSE.txt").read_text() == "ours"
    assert "affine-2bit" in (healed.path / "README.md").read_text()
    assert not (tmp_path / "healed.heal").exists()


@pytest.mark.parametrize("recipe", ["affine-2bit-g64-asym", "affine-3bit"])
def test_the_bundle_has_the_perplexity_that_training_printed(tmp_path: Path, recipe: str) -> None:
    """A trained model of 6 M weights, rounded and trained for a few steps, on a text: within 0.3 %."""
    windows = text_windows(tmp_path, 6, 256)
    with open_model(EXAMPLE) as opened:
        original = Original(opened, torch.device("cpu"), torch.float32)
        codecs = heal_codecs(heal_recipe(recipe), opened.spec, opened.tensors)
        student = make_student(opened, original, codecs, None)
        module, tokens = Distillation(student, original), torch.from_numpy(windows[4:].astype("int64"))
        optimiser = torch.optim.AdamW(student.parameters(), 1e-3)
        for _ in range(4):
            optimiser.zero_grad()
            module(tokens, original.hidden(tokens)).backward()
            optimiser.step()
        held = evaluate_held(student, original, windows[:4], 2, int8=True)
        (tmp_path / "healed").mkdir()
        assert write_result(tmp_path / "healed", opened, student.tensors(), {}, tmp_path / "none", "card") == 0
    build(tmp_path / "healed", tmp_path / "b.mbundle")
    with NativeModel(tmp_path / "b.mbundle" / "weights.ptd") as bundle:
        assert measure(bundle, windows[:4]).perplexity == pytest.approx(held.perplexity, rel=3e-3)


@pytest.mark.parametrize("recipe", ["bitnet-row", "affine-2bit"])
def test_the_engine_computes_what_the_student_computes(tmp_path: Path, recipe: str) -> None:
    """Up to the first code of an activation that falls to the other side: no difference at about half of the first
    tokens, where without the engine's rounding there is one at all of them. Behind the first token, whose softmax has
    one term, the engine's attention also rounds its terms, which the student does not."""
    windows = text_windows(tmp_path, 20, 12)
    with open_model(EXAMPLE) as opened:
        original = Original(opened, torch.device("cpu"), torch.float32)
        codecs = heal_codecs(heal_recipe(recipe), opened.spec, opened.tensors)
        student = make_student(opened, original, codecs, None)
        (tmp_path / "healed").mkdir()
        write_result(tmp_path / "healed", opened, student.tensors(), {}, tmp_path / "none", "card")
    build(tmp_path / "healed", tmp_path / "b.mbundle")
    found = []
    for int8 in (True, False):
        student.int8 = int8
        with torch.no_grad():
            x, head = student(torch.from_numpy(windows.astype("int64")))
            found.append(torch.log_softmax(x @ head.T, -1))
    path, logits = tmp_path / "b.mbundle" / "weights.ptd", []
    with NativeModel(path) as bundle, bundle.session(12, 1, 12, "int8", all_logits=True) as session:
        for window in windows:
            session.rewind(0)
            logits.append(session.feed_all(window).copy())
    own = torch.log_softmax(torch.from_numpy(np.stack(logits)), -1)
    same, apart = ((own.exp() * (own - other)).sum(-1) for other in found)
    assert (same[:, 0] < 1e-5).float().mean() > 0.4
    assert not (apart[:, 0] < 1e-5).any()
    assert same.mean() < 0.5 * apart.mean()


def test_two_runs_with_one_seed_give_the_same_bytes(tmp_path: Path, model: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        heal(model, tmp_path / name, recipe="bitnet-row", seed=seed, **SHORT)
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
import mobile_bundle as mb
from mobile_bundle.healing.progress import Trained
def step(what):
    if isinstance(what, Trained) and what.step == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
mb.heal(sys.argv[1], sys.argv[2], recipe="affine-2bit", progress=step, save_minutes=1e-9, {settings})
"""
"""The third argument: after which step; -1 for none."""


def killing(**settings: Any) -> str:
    return KILLED.replace("{settings}", ", ".join(f"{name}={value}" for name, value in settings.items()))


@pytest.mark.parametrize(("after", "means"), [(13, {}), (20, {0.1: 1, 0.2: 3})])
def test_a_killed_run_goes_on_to_the_same_bytes(
    tmp_path: Path, model: Path, after: int, means: dict[float, int]
) -> None:
    """means: how many steps' weights are in them when it is killed."""
    command = [sys.executable, "-c", killing(**SHORT), str(model), str(tmp_path / "a"), str(after)]
    ended = subprocess.run(command, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    saved = torch.load(tmp_path / "a.heal" / "state.pt", weights_only=True)
    assert {part: mean["count"] for part, mean in saved["run"]["means"].items()} == means
    assert not (tmp_path / "a").exists()
    steps: list[int] = []

    def step(what: Any) -> None:
        if isinstance(what, Trained):
            steps.append(what.step)

    heal(model, tmp_path / "a", recipe="affine-2bit", progress=step, **SHORT)
    assert steps == list(range(after, 21))
    heal(model, tmp_path / "b", recipe="affine-2bit", **SHORT)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    same = ("step", "kl", "perplexity")
    assert [[each[key] for key in same] for each in log(tmp_path / "a")] == [
        [each[key] for key in same] for each in log(tmp_path / "b")
    ]


def test_another_run_does_not_go_on_from_it(tmp_path: Path, model: Path) -> None:
    (tmp_path / "a.heal").mkdir()
    (tmp_path / "a.heal" / "run.json").write_text(json.dumps({"seed": 7}))
    with pytest.raises(OutputError, match="an unfinished run with another"):
        heal(model, tmp_path / "a", recipe="affine-2bit", **SHORT)


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.mark.parametrize("how", [(), ("--graph",), ("--shard",)], ids=["ddp", "graph", "shard"])
def test_two_processes_do_what_one_does(tmp_path: Path, model: Path, how: tuple[str, ...]) -> None:
    """Within bfloat16's tolerance: sums have another order, and a code at the edge may fall to the other side. --graph:
    with one sum of all gradients, as where steps are recorded; --shard: weights, gradients and optimiser in shards."""
    options = {"recipe": "affine-2bit", "tokens": 640, "own-tokens": 3200, "sequence": 32, "batch": 4, "micro-batch": 2}
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    assert main(["heal", str(model), "-o", str(tmp_path / "one"), *given]) == 0
    two = ["heal", str(model), "-o", str(tmp_path / "two"), *given, *how]
    command = [*TORCHRUN, "-m", "mobile_bundle.cli.main", *two]
    ended = subprocess.run(command, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stderr.decode()
    with open_model(tmp_path / "one") as one, open_model(tmp_path / "two") as two:
        for tensor in one.tensors:
            if tensor.source:
                a, b = read_matrix(one, tensor), read_matrix(two, tensor)
                assert np.isclose(a, b, rtol=2e-3, atol=1e-5).mean() > 0.98, tensor.name
    assert log(tmp_path / "one")[-1]["kl"] == pytest.approx(log(tmp_path / "two")[-1]["kl"], rel=1e-2)


def test_two_processes_in_shards_go_on_to_the_same_bytes(tmp_path: Path, model: Path) -> None:
    """Killed where there are a best state, an optimiser and a mean of weights to gather and to spread again."""
    script = tmp_path / "heal.py"
    script.write_text(killing(**SHORT, average_shares=(0.5,), shard=True))

    def ran(output: str, after: int) -> subprocess.CompletedProcess[bytes]:
        command = [*TORCHRUN, str(script), str(model), str(tmp_path / output), str(after)]
        return subprocess.run(command, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    assert ran("a", 15).returncode != 0
    saved = torch.load(tmp_path / "a.heal" / "state.pt", weights_only=True)
    assert saved["run"]["step"] == 14
    assert saved["run"]["means"][0.5]["count"] == 4
    assert saved["run"]["best"]
    for output in ("a", "b"):
        ended = ran(output, -1)
        assert ended.returncode == 0, ended.stderr.decode()
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert [each["step"] for each in log(tmp_path / "a")] == [each["step"] for each in log(tmp_path / "b")]


def test_a_loss_that_is_not_finite_keeps_the_last_good_state(tmp_path: Path, model: Path) -> None:
    with pytest.raises(NotFinite, match="lower `rate`; the same command goes on"):
        heal(model, tmp_path / "a", recipe="affine-2bit", **SHORT | {"rate": 1e30})
    saved = torch.load(tmp_path / "a.heal" / "state.pt", weights_only=True)
    assert saved["run"]["step"] >= 1
    assert not (tmp_path / "a").exists()


def test_it_ends_early_when_nothing_gets_better(tmp_path: Path, model: Path) -> None:
    settings = SHORT | {"rate": 1e-12, "evaluations": 20, "patience": 2, "int8_share": 0.0}
    heal(model, tmp_path / "a", recipe="affine-2bit", **settings)
    assert len(log(tmp_path / "a")) <= 5


def test_layer_by_layer_and_again_after_a_kill(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobile_bundle.healing.run._CALIBRATION", 32)  # tokens: too few to do better than the layers
    text = letters(tmp_path)
    asked = {"recipe": "affine-2bit", "method": "blocks", "text": text, "tokens": 6144, "sequence": 32, "batch": 4}
    asked |= {"layers_share": 1.0, "rate": 1e-3}
    healed = heal(model, tmp_path / "a", **asked)
    assert build(tmp_path / "a", tmp_path / "a.mbundle")["recipe"] == "exact"

    class Killed(Exception):
        pass

    def step(what: Any) -> None:
        if getattr(what, "stage", "") == "healing layer by layer":
            raise Killed

    with pytest.raises(Killed):
        heal(model, tmp_path / "b", progress=step, **asked)
    assert (tmp_path / "b.heal" / "blocks.pt").exists()
    heal(model, tmp_path / "b", **asked)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    rounded = heal(
        model, tmp_path / "c", **asked | {"method": "distill", "tokens": 256, "text_share": 1.0, "rate": 1e-9}
    )
    assert healed.held.kl < rounded.held.kl
    whole = heal(model, tmp_path / "d", **asked | {"layers_share": 0.3})  # and then the whole model
    assert whole.held.kl < 0.9 * healed.held.kl
    assert log(tmp_path / "d")[0]["kl"] == pytest.approx(healed.held.kl, rel=1e-3)
    minutes = heal(model, tmp_path / "e", **asked | {"layers_share": 0.3, "tokens": None, "minutes": 0.05})
    assert minutes.held.kl < healed.held.kl


def test_layers_that_do_worse_than_calibrated_coding_give_way_to_it(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its codes stay, the rest is trained."""
    monkeypatch.setattr("mobile_bundle.healing.blocks._tune", lambda *_: (1.0, 1.0))  # layers that learn nothing
    text = letters(tmp_path)
    asked = {"recipe": "affine-2bit", "text": text, "tokens": 256, "sequence": 32, "batch": 4}
    whole = asked | {"text_share": 1.0, "rate": 1e-12}
    rounded, calibrated = (heal(model, tmp_path / start, start=start, **whole) for start in ("rounded", "calibrated"))
    assert calibrated.held.kl < 0.9 * rounded.held.kl
    longer = {"tokens": 24576, "rate": 1e-4, "layers_share": 0.3}
    blocks = heal(model, tmp_path / "blocks", method="blocks", **asked | longer)
    assert log(tmp_path / "blocks")[0]["kl"] == pytest.approx(calibrated.held.kl, rel=1e-6)
    assert blocks.held.kl < calibrated.held.kl
    with open_model(calibrated.path) as before, open_model(blocks.path) as after:
        for tensor in before.tensors:
            if tensor.role == "body":
                a, b = read_matrix(before, tensor), read_matrix(after, tensor)
                for own, other in zip(a.reshape(-1, 32), b.reshape(-1, 32), strict=True):
                    codes = [np.unique(each, return_inverse=True)[1] for each in (own, other)]
                    assert (codes[0] == codes[1]).all()


@pytest.mark.parametrize("tokens", [512, 4096])
def test_the_start_goes_by_the_tokens_that_there_are_for_each_weight(tmp_path: Path, model: Path, tokens: int) -> None:
    """57,344 weights: few tokens begin with the calibrated code, many with rounding."""
    asked = {"recipe": "affine-2bit", "text": letters(tmp_path), "sequence": 32, "batch": 4, "tokens": tokens}
    start = "calibrated" if tokens < 1000 else "rounded"
    untrained = heal(model, tmp_path / "start", start=start, **asked | {"text_share": 1.0, "rate": 1e-12})
    healed = heal(model, tmp_path / "blocks", method="blocks", **asked)
    assert log(healed.path)[0]["kl"] == pytest.approx(untrained.held.kl, rel=1e-4)
    assert healed.held.kl < untrained.held.kl
    assert not (tmp_path / "blocks.heal").exists()


def test_codes_that_stay_outlast_a_kill(tmp_path: Path, model: Path) -> None:
    """They are whole numbers in the state, beside scales that have moved."""
    asked = {"method": "blocks", "text": letters(tmp_path), "sequence": 32, "batch": 4, "tokens": 768}
    script = killing(
        **{name: repr(str(value)) if isinstance(value, (str, Path)) else value for name, value in asked.items()}
    )
    ended = subprocess.run([sys.executable, "-c", script, str(model), str(tmp_path / "a"), "4"], capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    saved = torch.load(tmp_path / "a.heal" / "state.pt", weights_only=True)
    assert saved["run"]["codes_fixed"]
    assert saved["student"]["embedding.weight"].frac().abs().max() == 0
    with pytest.raises(OutputError, match="another layers_share"):
        heal(model, tmp_path / "a", recipe="affine-2bit", layers_share=1.0, **asked)
    (tmp_path / "a.heal" / "start.json").write_text("")  # as a kill in the middle of writing leaves it
    for name in "ab":
        assert heal(model, tmp_path / name, recipe="affine-2bit", **asked).lost == 0
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_time_is_measured_to_choose_the_start(tmp_path: Path, model: Path) -> None:
    asked = {"recipe": "affine-2bit", "text": letters(tmp_path), "sequence": 32, "batch": 4, "method": "blocks"}
    ways = []
    for name, minutes in (("a", 1e-9), ("b", 0.05)):
        told: list[Any] = []

        def step(what: Any, seen: list[Any] = told) -> None:
            seen.append(getattr(what, "stage", ""))

        heal(model, tmp_path / name, progress=step, minutes=minutes, **asked)
        ways.append("calibrating the start" in told)
    assert ways == [True, False]


class Clock:
    """Goes on by a second in a step of training, and by what `evaluations` says in each of these; then by six."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, evaluations: list[float]) -> None:
        self.now, self.steps = 0.0, 0
        take_step = training.Training._step

        def step(run: training.Training, share: float) -> torch.Tensor:
            self.now += 1
            self.steps += 1
            return take_step(run, share)

        def evaluated(*given: Any) -> Any:
            self.now += evaluations.pop(0) if evaluations else 6
            return evaluate_held(*given)

        monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(training, "evaluate_held", evaluated)
        monkeypatch.setattr(training.Training, "_step", step)


TIMED = SHORT | {"recipe": "affine-2bit", "tokens": None, "minutes": 2}


@pytest.mark.parametrize("evaluations", [[12], [31, 6, 6, 14]])
def test_minutes_include_the_evaluations_at_the_end(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, evaluations: list[float]
) -> None:
    """Also where the first, in which the original reads the text, or one on the way takes longer."""
    clock = Clock(monkeypatch, list(evaluations))
    heal(model, tmp_path / "healed", **TIMED)
    assert 115 < clock.now <= 121
    assert clock.steps == clock.now - sum(evaluations) - 6 * (9 - len(evaluations))


def test_a_run_that_ended_in_its_last_evaluations_has_no_further_step(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        clock = Clock(patched, [6] * 6)
        evaluated = training.evaluate_held

        def killed(*given: Any) -> Any:
            if clock.now > 100:
                raise KeyboardInterrupt
            return evaluated(*given)

        patched.setattr(training, "evaluate_held", killed)
        with pytest.raises(KeyboardInterrupt):
            heal(model, tmp_path / "healed", **TIMED)
    clock = Clock(monkeypatch, [])
    heal(model, tmp_path / "healed", **TIMED)
    assert clock.steps == 0


def test_memory_that_is_short_names_the_setting(tmp_path: Path) -> None:
    named = pytest.raises(OutOfMemory, match=r"lower `micro_batch` \(now 8\), or set `checkpointing`")
    with named, _out_of_memory(Settings(batch=16, micro_batch=8)):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="something else"), _out_of_memory(Settings()):
        raise RuntimeError("something else")


FAMILIES = (
    "qwen3",
    "gemma2",
    "gemma3",
    "lfm2",
    "granite",
    "smollm3",
    "ernie-biases",
    "phi4",
    "exaone4-hybrid",
    "olmo2",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_healed_and_its_checkpoint_computes_what_training_printed(tmp_path: Path, family: str) -> None:
    """Layers that differ, factors, norms less one, matrices in one tensor, rows in pairs: by the engine, of a bundle of
    the healed checkpoint."""
    windows = np.random.default_rng(0).integers(3, 500, (4, 48)).astype(np.int32)
    with open_model(write_tiny(tmp_path / "model", family)) as opened:
        original = Original(opened, torch.device("cpu"), torch.float32)
        codecs = heal_codecs(heal_recipe("affine-2bit-g32-sym"), opened.spec, opened.tensors)
        student = make_student(opened, original, codecs, None)
        module = Distillation(student, original)
        optimiser = torch.optim.AdamW(student.parameters(), 1e-4)
        tokens = torch.from_numpy(windows.astype("int64"))
        losses = []
        for _ in range(8):
            loss = module(tokens, original.hidden(tokens))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]
        held = evaluate_held(student, original, windows, 2, int8=True)
        (tmp_path / "healed").mkdir()
        assert write_result(tmp_path / "healed", opened, student.tensors(), {}, tmp_path / "none", "card") == 0
    assert build(tmp_path / "healed", tmp_path / "b.mbundle")["recipe"] == "exact"
    with NativeModel(tmp_path / "b.mbundle" / "weights.ptd") as bundle:
        assert measure(bundle, windows).perplexity == pytest.approx(held.perplexity, rel=3e-3)
    with open_model(tmp_path / "healed") as again:  # what was written is what was trained
        for name, value in student.tensors().items():
            found = read_matrix(again, next(each for each in again.tensors if each.name == name))
            assert np.allclose(found.reshape(value.shape), value.numpy(), rtol=0, atol=1e-6), name


def test_what_cannot_be_is_refused(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a"
    for settings, message in (
        ({}, "nothing says how long"),
        ({"tokens": 10, "method": "magic"}, "`method` 'magic'"),
        ({"method": "blocks", "start": "calibrated"}, "`start` is for `method` distill"),
        ({"tokens": 10, "text_share": 2}, "`text_share` 2"),
        ({"tokens": 10, "sequence": 512}, "this model was trained for 256"),
        ({"tokens": 10, "own_tokens": 32, "sequence": 32}, "none to hold out"),
        ({"tokens": 10, "rates": 1}, "no setting 'rates'"),
        ({"tokens": 10, "batch": 10**11}, "`batch` 100000000000: must be at most 65,536"),
        ({"tokens": 10, "seed": -1}, "`seed` -1: must be a whole number from 0"),
        ({"tokens": 10, "average_shares": 0.1}, "average_shares 0.1: must be a tuple of numbers"),
        ({"tokens": 10, "average_shares": (0.1, 1.5)}, r"average_shares \(0.1, 1.5\): must be a tuple of numbers"),
        ({"tokens": 10, "seed": 10**22}, "`seed` 10000000000000000000000: must be"),
    ):
        with pytest.raises(ArgumentError, match=message):
            heal(model, out, recipe="affine-2bit", **settings)
    (tmp_path / "file").write_text("x")
    for output, places, error in (
        (tmp_path / "file", {}, "file is a file; give the name of a folder"),
        (out, {"own_text": tmp_path / "file"}, "file is a file; give the name of a folder"),
        (out, {"text": tmp_path}, "a directory; give a file"),
        (out, {"prompts": tmp_path / "none"}, "none"),
    ):
        with pytest.raises(UserError, match=error):
            heal(model, output, recipe="affine-2bit", tokens=10, **places)
    with pytest.raises(UnsupportedError, match="vptq-v4-b12 cannot be healed"):
        heal(model, out, recipe="vptq-v4-b12", tokens=10)
    with pytest.raises(ArgumentError, match="entropy coding changes no weight"):
        heal(model, out, recipe="bitnet+entropy", tokens=10)
    with pytest.raises(InputError, match="does not exist"):
        heal(tmp_path / "none", out, recipe="bitnet", tokens=10)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match="is not a healed checkpoint"):
        heal(model, tmp_path / "home", recipe="bitnet", **SHORT)
    assert not (tmp_path / "home.heal").exists()
    assert main(["heal", str(model), "-o", str(out), "--recipe", "nothing", "--tokens", "9"]) == 1
    assert "unknown codec 'nothing'" in capsys.readouterr().err
    assert not out.exists()
