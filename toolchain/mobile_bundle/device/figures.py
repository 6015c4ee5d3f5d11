"""What a program said of itself, in figures: read from its lines, whoever's program it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mobile_bundle.files.inputs import json_lines


@dataclass
class Figures:
    """None: not said. prefill, decode: tokens per second, one per repetition inside the process. Seconds count from the
    start of the process. peak_*: by the program's own reading of /proc. predicted_peak_bytes: for the very tokens that
    were fed; predicted: for a full context, in the manifest's words. answer: ids of the tokens generated. complete: it
    said its last word, so its figures are whole."""

    complete: bool = False
    error: str | None = None
    kernels: str | None = None
    threads: int | None = None
    load_seconds: float | None = None
    first_token_seconds: float | None = None
    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None
    answer: list[int] = field(default_factory=list)
    reason: str | None = None
    peak_rss_bytes: int | None = None
    peak_anon_bytes: int | None = None
    predicted_peak_bytes: int | None = None
    predicted: dict[str, int] | None = None


def runner_figures(lines: Iterable[str]) -> Figures:
    """Of mobile-run's events (--json)."""
    figures = Figures()
    for event in json_lines(lines):
        try:
            _take(figures, event)
        except (KeyError, TypeError, AttributeError):  # a line that only looks like one of ours
            continue
    return figures


def _take(figures: Figures, event: dict[str, Any]) -> None:
    match event.get("event"):
        case "load":
            figures.kernels, figures.threads = event["kernels"], event["threads"]
            figures.load_seconds, figures.predicted = event["load_seconds"], event["predicted"]
        case "prompt":
            figures.prefill, figures.prompt_tokens = [event["tokens_per_second"]], event["tokens"]
        case "token":
            if event["id"] >= 0:
                figures.answer.append(event["id"])
        case "done":
            figures.complete, figures.reason = True, event["reason"]
            figures.decode = [event["tokens_per_second"]] if event["tokens"] else []
            figures.first_token_seconds = event["first_token_seconds"]
            figures.predicted_peak_bytes = event["predicted_peak_bytes"]
            _take_memory(figures, event["memory"])
        case "bench":
            figures.complete = True
            rates = event["tokens_per_second"]
            figures.prefill, figures.decode = (rates, []) if event["test"].startswith("pp") else ([], rates)
            figures.first_token_seconds = event["first_token_seconds"]
            _take_memory(figures, event["memory"])
        case "error":
            figures.error = event["message"]


def _take_memory(figures: Figures, memory: dict[str, int]) -> None:
    figures.peak_rss_bytes, figures.peak_anon_bytes = memory["peak_rss_bytes"], memory["peak_anon_bytes"]
