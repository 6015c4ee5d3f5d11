"""Trials in processes of their own, with factors from a GPU (a stand-in), beside those of this process."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mobile_bundle.calibrate.device import CPU  # noqa: E402
from mobile_bundle.calibrate.trials import trials  # noqa: E402
from mobile_bundle.calibrate.walk import layer_weights, layers_in_turn  # noqa: E402
from mobile_bundle.codecs.registry import tried_together, try_candidates  # noqa: E402
from mobile_bundle.errors import ResumableError  # noqa: E402
from mobile_bundle.models import open_model  # noqa: E402
from support.paths import EXAMPLE  # noqa: E402
from support.stand_in_gpu import stand_in_gpu  # noqa: E402
from support.worker_calls import die  # noqa: E402

NAMES = ["affine-4bit-g64-e4m4", "affine-3bit-g64-e4m4", "trellis-2bit", "trellis-2.5bit"]


def problem(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(7)
    inputs = generator.standard_normal((2 * columns, columns)).astype(np.float32)
    weight = generator.standard_normal((rows, columns)).astype(np.float32)
    return weight, inputs.T @ inputs / np.float32(len(inputs))


def test_processes_find_what_this_one_finds() -> None:
    weight, hessian = problem(20, 72)
    expected = try_candidates(weight, hessian, NAMES)
    with trials(CPU) as tries:
        here = tries(weight, hessian, NAMES)
    with stand_in_gpu() as gpu, trials(torch.device(gpu)) as tries:
        there = tries(weight, torch.from_numpy(hessian).to(gpu), NAMES)
        given = tries(weight, hessian, NAMES)  # an array, as of an embedding's Hessian
    assert here.keys() == there.keys() == given.keys() == expected.keys()
    for name, errors in expected.items():
        np.testing.assert_array_equal(here[name], errors)
        np.testing.assert_array_equal(given[name], errors)
        np.testing.assert_allclose(there[name].sum(), errors.sum(), rtol=5e-3, err_msg=name)


def test_codecs_of_one_file_are_tried_together() -> None:
    assert tried_together(reversed(NAMES)) == [
        ["affine-4bit-g64-e4m4", "affine-3bit-g64-e4m4"],
        ["trellis-2.5bit", "trellis-2bit"],
    ]
    assert tried_together([]) == []


def test_a_killed_process_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = problem(4, 32)
    monkeypatch.setattr("mobile_bundle.calibrate.trials.try_shared", die)
    with stand_in_gpu() as gpu, trials(torch.device(gpu)) as tries:
        given = torch.from_numpy(hessian).to(gpu)
        for _ in range(2):  # then there are none to give work to
            with pytest.raises(ResumableError, match="worker process was killed"):
                tries(weight, given, NAMES)
    files = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
    assert not any("memfd:mobile-bundle" in file for file in files), "the shared memory is given back"


def test_layers_come_in_turn() -> None:
    with open_model(EXAMPLE) as model, stand_in_gpu() as gpu:
        layers = [1, 0, 2]
        for device in (CPU, torch.device(gpu)):
            found = list(layers_in_turn(model, layers, device))
            assert [layer for layer, _ in found] == layers
            for layer, weights in found:
                expected = layer_weights(model, layer)
                assert weights.keys() == expected.keys()
                assert all(torch.equal(weights[name], own) for name, own in expected.items())
