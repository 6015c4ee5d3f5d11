"""Compares a report with an earlier one of the same model and device, and fails on a regression."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from jsonschema.exceptions import best_match  # type: ignore[import-untyped]

from mobile_bundle.device.report.results import REPORT_VERSION, Check, Report
from mobile_bundle.device.report.verdict import Tolerances
from mobile_bundle.errors import InputError
from mobile_bundle.evaluate.speed import Rate
from mobile_bundle.files.inputs import read_json
from mobile_bundle.report.text import megabytes


def report_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a report."""
    text = resources.files("mobile_bundle.device.report").joinpath("report.schema.json").read_text("utf-8")
    value: dict[str, Any] = json.loads(text)
    return value


def read_baseline(path: Path) -> dict[str, Any]:
    """A report's JSON. UserError if the file is not one, or one of another version."""
    try:
        data = read_json(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(data, dict) or data.get("report_version") != REPORT_VERSION:
        raise InputError(f"{path} is not a device-test report of version {REPORT_VERSION}", "make it again")
    problem = best_match(Draft202012Validator(report_schema()).iter_errors(data))
    if problem is not None:
        where = "/".join(map(str, problem.absolute_path)) or "it"
        raise InputError(f"{path} is damaged ({where})", "make it again with `save_baseline`")
    return data


def check_comparable(baseline: dict[str, Any], report: Report) -> None:
    """UserError if the two reports measured different things."""
    device = baseline["device"]
    for what, old, new in (
        ("device", device and device["model"], report.device and report.device.model),
        ("label", baseline["label"], report.label),
        ("model", baseline["bundle"]["model"], report.bundle["model"]),
        ("number of threads", baseline["settings"]["threads"], report.settings["threads"]),
    ):
        if old != new:
            raise InputError(
                f"the baseline was recorded with a different {what} ({old}, now {new})", "record a new one"
            )


def compare(baseline: dict[str, Any], report: Report, tolerances: Tolerances) -> Iterator[Check]:
    """A check per figure that both have."""
    for old in baseline["cells"]:
        cell = report.cell(old["runtime"], old["cell"])
        if cell is None or cell.peer or not cell.runs or cell.test != old["test"] or not cell.outcome.ok:
            continue
        new = cell.summary()
        for key in ("peak_rss_bytes", "peak_anon_bytes"):
            if old[key] and new[key]:
                ok = new[key] <= old[key] * (1 + tolerances.memory)
                text = f"{key}: {megabytes(new[key])}, was {megabytes(old[key])} ({new[key] / old[key] - 1:+.1%})"
                yield Check("baseline", cell.runtime, cell.cell, ok, text)
        rate: Rate | None = new["tokens_per_second"]
        if old["tokens_per_second"] and rate is not None and cell.cell in ("prefill", "decode"):
            before = old["tokens_per_second"]["mean"]
            ok = rate.mean >= before * (1 - tolerances.speed)
            text = f"{rate.mean:.2f} tokens/s, was {before:.2f} ({rate.mean / before - 1:+.1%})"
            yield Check("baseline", cell.runtime, cell.cell, ok, text)
        if old["load_seconds"] and new["load_seconds"] and cell.cell in ("cold-load", "warm-load"):
            limit = max(old["load_seconds"] * (1 + tolerances.load), old["load_seconds"] + tolerances.seconds)
            text = f"load {new['load_seconds']:.3f} s, was {old['load_seconds']:.3f} s"
            yield Check("baseline", cell.runtime, cell.cell, new["load_seconds"] <= limit, text)
