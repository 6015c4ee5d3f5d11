"""mb.build, mb.open, mb.estimate and a bundle's manifest."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import threading
from pathlib import Path

import mobile_bundle as mb
import pytest
from mobile_bundle.api.manifest import File, Manifest, ModelShape, Tensor
from mobile_bundle.container.manifest import schema
from mobile_bundle.planning.memory import PredictedMemory
from support.paths import EXAMPLE
from support.small_checkpoint import write_checkpoint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


def test_a_build_says_how_far_it_is(model, tmp_path, capfd):
    steps: list[mb.Step] = []
    bundle = mb.build(model, tmp_path / "a.mbundle", recipe="affine-8bit", progress=steps.append)
    assert {step.stage for step in steps} == {"coding weights"}
    assert steps[-1].done == steps[-1].total == bundle.manifest.model.parameters + 8  # and the rotary table
    assert {step.tensor for step in steps} == {tensor.name for tensor in bundle.tensors}
    assert str(steps[-1]) == f"coding weights: 100 % ({steps[-1].tensor})"
    assert capfd.readouterr() == ("", "")
    assert mb.open(tmp_path / "a.mbundle").manifest == bundle.manifest
    assert set(bundle.verify()) == {"manifest.json", *bundle.manifest.files}


def test_a_budget_is_kept_and_the_plan_is_logged(model, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "mobile_bundle"):
        bundle = mb.build(model, tmp_path / "a.mbundle", max_size="2MB", max_ram=600_000_000)
    assert any("predicted peak memory" in message for message in caplog.messages)
    stored = sum(file.bytes for name, file in bundle.manifest.files.items() if not name.startswith("bin/"))
    runner = max(file.bytes for name, file in bundle.manifest.files.items() if name.startswith("bin/"))
    assert stored + runner + (bundle.path / "manifest.json").stat().st_size <= 2_000_000
    with pytest.raises(mb.errors.BudgetError) as caught:
        mb.build(model, tmp_path / "b.mbundle", max_size="10kB")
    error = caught.value
    assert (error.limit, error.asked, error.best) == ("max_size", 10_000, sum(error.parts.values()))
    assert error.best > 40 * error.asked
    assert str(error) == f"{error.message}; {error.remedy}"
    assert "`max_size`" in error.message
    with pytest.raises(mb.errors.BudgetError) as caught:
        mb.build(model, tmp_path / "b.mbundle", max_ram=1000)
    assert (caught.value.limit, caught.value.asked) == ("max_ram", 1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mbundle", "model"]


def test_a_cancelled_build_leaves_its_parts_and_goes_on(model, tmp_path):
    stop, steps, out = threading.Event(), [], tmp_path / "a.mbundle"

    def progress(step: mb.Step) -> None:
        steps.append(step)
        if len(steps) == 3:
            stop.set()

    with pytest.raises(mb.errors.Cancelled):
        mb.build(model, out, recipe="affine-4bit", progress=progress, cancel=stop)
    assert len(steps) == 3
    assert not out.exists()
    kept = {path.name for path in (tmp_path / "a.mbundle.parts").glob("*.part")}
    assert len(kept) >= 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mbundle.parts", "model"]
    again = mb.build(model, out, recipe="affine-4bit", cancel=lambda: False)
    other = mb.build(model, tmp_path / "b.mbundle", recipe="affine-4bit")
    assert {n: f.sha256 for n, f in again.manifest.files.items()} == {
        n: f.sha256 for n, f in other.manifest.files.items()
    }
    assert not (tmp_path / "a.mbundle.parts").exists()


def test_builds_of_several_threads(model, tmp_path):
    """Side by side, each as if it were alone; a second one of the same output is refused."""
    made: dict[int, object] = {}

    def work(number: int) -> None:
        made[number] = mb.build(model, tmp_path / f"{number}.mbundle", recipe="affine-4bit")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    weights = {bundle.manifest.files["weights.ptd"].sha256 for bundle in made.values()}
    assert (len(made), len(weights)) == (3, 1)

    def second(step: mb.Step) -> None:
        with pytest.raises(mb.errors.OutputError, match="another build is writing"):
            mb.build(model, tmp_path / "same.mbundle", recipe="affine-4bit")

    assert mb.build(model, tmp_path / "same.mbundle", recipe="affine-4bit", progress=second)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"recipe": "zip"}, mb.errors.ArgumentError),
        ({"recipe": "nowhere.yaml"}, mb.errors.InputError),
        ({"max_size": "12 parsecs"}, mb.errors.ArgumentError),
        ({"max_perplexity": float("nan")}, mb.errors.ArgumentError),
        ({"formats": ["zip"]}, mb.errors.ArgumentError),
        ({"formats": "native"}, mb.errors.ArgumentError),
        ({"jobs": 0}, mb.errors.ArgumentError),
        ({"jobs": 2, "cluster": "tcp://127.0.0.1:1"}, mb.errors.ArgumentError),
        ({"calibration": "nowhere.txt", "recipe": "affine-4bit"}, mb.errors.InputError),
        ({"chat_options": {"a": 1}, "recipe": "raw"}, mb.errors.ArgumentError),
        ({"recipe": "raw", "max_size": 10**9}, mb.errors.ArgumentError),
    ],
)
def test_what_cannot_be_is_refused(model, tmp_path, wrong, kind):
    with pytest.raises(kind) as caught:
        mb.build(model, tmp_path / "a.mbundle", **wrong)
    assert type(caught.value) is kind
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_errors_have_their_kind(model, tmp_path):
    with pytest.raises(mb.errors.InputError) as caught:
        mb.open(model)
    assert caught.value.code == "input"
    with pytest.raises(mb.errors.InputError):
        mb.build(tmp_path / "nowhere", tmp_path / "a.mbundle")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    with pytest.raises(mb.errors.UnsupportedError):
        mb.build(model, tmp_path / "a.mbundle", recipe="raw")
    (tmp_path / "file").write_text("mine")
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(mb.errors.OutputError) as caught:
        mb.build(model, tmp_path / "file", recipe="raw")
    assert caught.value.remedy == "choose another name for the bundle"


def test_a_damaged_bundle_is_named(model, tmp_path):
    bundle = mb.build(model, tmp_path / "a.mbundle", recipe="raw")
    data = bytearray((bundle.path / "weights.ptd").read_bytes())
    data[-1] ^= 1
    (bundle.path / "weights.ptd").write_bytes(data)
    with pytest.raises(mb.errors.InputError, match=r"weights\.ptd"):
        bundle.verify()
    shutil.rmtree(bundle.path)
    with pytest.raises(mb.errors.InputError):
        bundle.load()


def test_the_manifest_has_every_member_of_the_schema(bundle):
    properties = schema()["properties"]

    def names(kind: type) -> set[str]:
        return {field.name for field in dataclasses.fields(kind)}

    assert names(Manifest) == set(properties) - {"format"}
    assert names(ModelShape) == set(properties["model"]["properties"])
    assert names(Tensor) == set(properties["tensors"]["items"]["properties"])
    assert names(File) == set(properties["files"]["additionalProperties"]["properties"])
    assert names(PredictedMemory) == set(properties["predicted"]["properties"])
    raw = json.loads((bundle("affine-4bit") / "manifest.json").read_text())
    manifest = mb.open(bundle("affine-4bit")).manifest
    assert [dataclasses.asdict(tensor) for tensor in manifest.tensors] == raw["tensors"]
    assert dataclasses.asdict(manifest.predicted) == raw["predicted"]
    assert dataclasses.asdict(manifest.model) == raw["model"] | {"eos": tuple(raw["model"]["eos"])}
    assert (manifest.recipe, manifest.bytes, list(manifest.notes)) == (raw["recipe"], raw["bytes"], raw["notes"])


def test_a_manifest_of_a_newer_tool_is_read(bundle, tmp_path):
    """Members that this version does not know are left out; those that old bundles lack have their defaults."""
    shutil.copytree(bundle("affine-4bit"), tmp_path / "a.mbundle")
    path = tmp_path / "a.mbundle/manifest.json"
    raw = json.loads(path.read_text())
    raw["tensors"][0]["new"] = raw["model"]["new"] = raw["new"] = 1
    del raw["chat_thinking"], raw["chat_options"]
    path.write_text(json.dumps(raw))
    manifest = mb.open(tmp_path / "a.mbundle").manifest
    assert (manifest.chat_thinking, manifest.chat_options, manifest.runtimes) == (False, {}, {})


def test_an_estimate_is_what_a_build_gives(bundle):
    manifest = mb.open(bundle("affine-4bit")).manifest
    estimate = mb.estimate(EXAMPLE, "affine-4bit")
    assert (estimate.bytes, estimate.predicted) == (manifest.bytes, manifest.predicted)
    assert mb.estimate(EXAMPLE, recipe="bitnet", context=64).predicted.context == 64
    with pytest.raises(mb.errors.ArgumentError, match="unknown recipe"):
        mb.estimate(EXAMPLE, "zip")
