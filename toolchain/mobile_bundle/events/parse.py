"""Lines of mobile-run and mobile-watch, checked against the schema and read into dataclasses."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from jsonschema.exceptions import best_match  # type: ignore[import-untyped]

from mobile_bundle.errors import UserError
from mobile_bundle.events.kinds import EVENTS, Event, Memory, Predicted
from mobile_bundle.files.inputs import parse_json

_OBJECTS = {"memory": Memory, "predicted": Predicted}
"""Fields that hold an object."""


class EventError(UserError):
    """A line has the name of an event, but not its fields: program and toolchain are of different versions."""


@functools.cache
def events_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of all events and of serve's requests."""
    text = resources.files("mobile_bundle.events").joinpath("events.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@functools.cache
def _validator(name: str) -> Draft202012Validator:
    """Of one event: `$ref` and `$defs` of the whole schema without its choice between all events, which is slow."""
    return Draft202012Validator({"$defs": events_schema()["$defs"], "$ref": f"#/$defs/{name}"})


def parse_event(line: str) -> Event | None:
    """The event in a line; None for other text, a line that was cut off, or an event that only a newer program has.

    Unknown fields are ignored. EventError if a required field is missing or has another type."""
    if not line.startswith("{"):
        return None
    try:
        value = parse_json(line, "the line")
    except UserError:
        return None
    name = value.get("event")
    kind = EVENTS.get(name) if isinstance(name, str) else None
    if kind is None:
        return None
    problem = best_match(_validator(name).iter_errors(value))
    if problem is not None:
        where = "/".join(map(str, problem.absolute_path))
        at = f" at {where}" if where else ""
        raise EventError(
            f"the event {name!r} is invalid{at}: {problem.message}; use the programs of the same mobile-bundle version"
        )
    taken = {field.name: value[field.name] for field in fields(kind) if field.name in value}
    for field, cls in _OBJECTS.items():
        if field in taken:
            taken[field] = cls(
                **{part.name: taken[field][part.name] for part in fields(cls) if part.name in taken[field]}
            )
    return kind(**taken)


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """The events among lines, in order. Raises EventError."""
    for line in lines:
        event = parse_event(line)
        if event is not None:
            yield event


def read_output(output: bytes) -> Iterator[Event]:
    """The events among a program's whole output, in order. Raises EventError.

    Only a line feed ends a line: U+2028 and the like, at which str.splitlines parts, may stand in a token's text."""
    return read_events(output.decode("utf-8", "replace").split("\n"))
