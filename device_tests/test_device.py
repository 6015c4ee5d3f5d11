"""What must hold of a bundle on any device."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from jsonschema import Draft202012Validator
from mobile_bundle.container.manifest import read_manifest
from mobile_bundle.device.measuring.cells import NAMES
from mobile_bundle.device.measuring.fit import choose_abi
from mobile_bundle.device.report.baseline import report_schema
from mobile_bundle.device.report.results import Check, Report
from mobile_bundle.device.report.table import report_lines
from mobile_bundle.device.session import device_test
from mobile_bundle.device.transport.places import Places


def failed(checks: list[Check]) -> list[str]:
    return [f"{check.cell}: {check.text}" for check in checks if not check.ok]


def checks(report: Report, name: str) -> list[Check]:
    """Of the verdict, those of that name; there must be some."""
    found = [check for check in report.checks if check.name == name]
    assert found, f"{name} was not judged"
    return found


def test_it_comes_to_its_end(report):
    for line in report_lines(report):
        print(line)
    assert report.refused == []
    assert report.error is None
    assert report.finished


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_ends_well(report, name):
    cell = report.cell("native", name)
    assert cell is not None
    assert cell.outcome.ok, cell.outcome.cause
    assert cell.runs


def test_the_tokens_are_those_of_this_machine(report):
    assert failed(checks(report, "same tokens")) == []


def test_memory_is_as_predicted(report):
    assert failed(checks(report, "peak as predicted")) == []
    assert failed(checks(report, "anonymous as predicted")) == []


def test_sampler_program_and_kernel_agree(report):
    assert failed(checks(report, "witnesses agree")) == []


def test_lookup_and_states_change_no_token(report):
    assert failed(checks(report, "same answer")) == []
    assert failed(checks(report, "taken up")) == []


def test_a_cache_of_4_bits_is_as_predicted(asked, reached, report):
    cells = ("warm-load", "long-context", "lookup", "save", "resume")
    small = replace(asked, settings=replace(asked.settings, kv="int4", cells=cells, reps=1))
    second = device_test(small, reached.device, lambda _: None, print, lambda *_: None)
    assert failed(second.checks) == []
    for name in ("peak as predicted", "anonymous as predicted", "same answer", "taken up", "same tokens"):
        checks(second, name)
    # half of int8's bytes, which the prediction knows
    assert second.bundle["predicted"]["kv_bytes_per_token"] < 0.6 * report.bundle["predicted"]["kv_bytes_per_token"]


def test_an_answer_can_be_stopped(report):
    assert failed(checks(report, "cancelled")) == []


def test_a_soak_does_not_grow(report):
    assert failed(checks(report, "does not grow")) == []


def test_the_verdict_is_passed(report):
    assert failed(report.checks) == []
    assert report.passed


def test_the_report_is_as_its_schema_says(report):
    Draft202012Validator(report_schema()).validate(json.loads(report.to_json()))


def test_a_second_time_nothing_is_pushed(asked, reached, report):
    again = replace(asked, settings=replace(asked.settings, cells=("warm-load",), reps=1))
    second = device_test(again, reached.device, lambda _: None, print, lambda *_: None)
    assert second.pushed_bytes == 0
    assert second.passed


def test_what_lies_on_the_device_is_whole(asked, reached, report):
    abi = choose_abi(read_manifest(asked.bundle), report.device)
    places = Places(asked.work, abi, asked.bundle.resolve().name)
    reached.device.shell(f"{places.bundle}/bin/{places.abi}/mobile-run verify {places.bundle}", timeout=600)


def test_what_cannot_fit_is_refused_before_it_is_sent(asked, reached, report):
    trained = read_manifest(asked.bundle)["model"]["context"]
    much = replace(asked, settings=replace(asked.settings, context=100 * trained))
    refused = device_test(much, reached.device, lambda _: None, print, lambda *_: None)
    assert refused.pushed_bytes is None
    assert refused.cells == []
    assert f"the model was trained for {trained}" in refused.refused[0]
    assert not refused.passed
