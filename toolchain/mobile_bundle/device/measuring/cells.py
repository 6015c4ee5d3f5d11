"""What is run on a device, and in what order. A cell is one question; each of its runs is a new process."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mobile_bundle.device.transport.device_info import DeviceInfo

NAMES = (
    "cold-load", "warm-load", "prefill", "decode", "long-context", "pressure", "lookup", "save", "resume", "cancel",
    "soak",
)  # fmt: skip
"""Cells by the names that a test may ask for. soak is run where it is said for how long."""

ANSWER_TOKENS = 16
"""Tokens that a run of the load cells generates, greedily; they must be the ones this machine generates."""

FULL = ("long-context", "pressure", "lookup", "save", "resume")
"""Cells that use nearly the whole context: their memory is compared with the prediction."""

LOOKUP = 16
"""Guesses at a time in the lookup cell."""

REPEATED = ("cold-load", "warm-load", "prefill", "decode")
"""Cells that are run `reps` times, in turns; the others once."""


@dataclass(frozen=True)
class Settings:
    """What the user asked for. reps: processes per repeated cell; context: tokens, 0 the bundle's; threads 0: the
    runner's choice; kv: type of the KV cache, another than int8 for the native runner only. pressure_bytes: what the
    second process takes, None: pressure_default. soak_seconds 0: no soak. timeout: seconds that one run may take."""

    cells: tuple[str, ...] = NAMES
    reps: int = 5
    prompt_tokens: int = 512
    new_tokens: int = 128
    context: int = 0
    threads: int = 0
    kv: str = "int8"
    pressure_bytes: int | None = None
    soak_seconds: float = 0
    timeout: float = 600


@dataclass(frozen=True)
class Cell:
    """test: what it is called in the table ("pp512"). tokens: fed or generated, by kind; 0 for loads. drop_caches: the
    kernel's page cache first, where root may. pressure_bytes: taken by a second process meanwhile. requests: lines for
    its standard input, each of them when the one before is answered."""

    name: str
    test: str
    tokens: int
    runs: int
    timeout: float
    drop_caches: bool = False
    pressure_bytes: int = 0
    requests: tuple[str, ...] = ()


def plan_cells(settings: Settings, manifest: dict[str, Any], info: DeviceInfo) -> list[Cell]:
    """The cells in the order of NAMES. A model that is trained for less than a cell's tokens gets as many as it has."""
    most = manifest["model"]["context"]
    context = context_of(settings, manifest)
    prompt, new = min(settings.prompt_tokens, most), min(settings.new_tokens, most)
    pressure = settings.pressure_bytes if settings.pressure_bytes is not None else pressure_default(info)

    def cell(name: str, test: str, tokens: int, **more: Any) -> Cell:
        return Cell(name, test, tokens, settings.reps if name in REPEATED else 1, settings.timeout, **more)

    cells = [
        cell("cold-load", "cold load", 0, drop_caches=True),
        cell("warm-load", "warm load", 0),
        cell("prefill", f"pp{prompt}", prompt),
        cell("decode", f"tg{new}", new),
        cell("long-context", f"ctx{context}", context),
        cell("pressure", f"ctx{context} under pressure", context, pressure_bytes=pressure),
        cell("lookup", f"ctx{context} with lookup", context),
        cell("save", "save a state", context),
        cell("resume", "resume it", context),
        cell("cancel", "cancel", context),
        cell("soak", f"soak {settings.soak_seconds:g} s", new),
    ]
    return [c for c in cells if c.name in settings.cells and (c.name != "soak" or settings.soak_seconds)]


def context_of(settings: Settings, manifest: dict[str, Any]) -> int:
    """Tokens of context that the test goes up to."""
    return settings.context or int(manifest["predicted"]["context"])


def with_requests(cell: Cell, text: str, state: str) -> Cell:
    """The cell with what is asked in it. text: nearly fills the context; state: a path on the device.

    One process reads the text, saves its state and answers; the next one takes the state up and answers the same."""
    read, answer = (
        {"prompt": text, "max_new_tokens": tokens, "temperature": 0, "ignore_eos": True}
        for tokens in (1, ANSWER_TOKENS)
    )
    asked = {"save": [read, {"save": state}, answer], "resume": [{"resume": state}, answer]}.get(cell.name, [])
    return replace(cell, requests=tuple(map(json.dumps, asked)))


def pressure_default(info: DeviceInfo) -> int:
    """Bytes for the second process so that half of the device's memory is taken: what is not in use already."""
    used = info.memory_bytes - info.available_bytes
    return max(info.memory_bytes // 2 - used, 0)


T = TypeVar("T")


def in_turns(items: Sequence[T], runs: Callable[[T], int]) -> list[tuple[T, int]]:
    """(item, number of its run): round by round, every other round backwards, so that neither heat nor a drifting clock
    favours one. runs: how often an item is run; those that are run once come last."""
    repeated = [item for item in items if runs(item) > 1]
    order = []
    for number in range(max(map(runs, repeated), default=0)):
        round_ = [(item, number) for item in repeated if number < runs(item)]
        order += round_ if number % 2 == 0 else round_[::-1]
    return order + [(item, 0) for item in items if runs(item) == 1]
