"""Events of mobile-run and mobile-watch as tests read them: every line must be what the schema says, and no more."""

from __future__ import annotations

import copy
import functools
import json
from typing import Any

from jsonschema import Draft202012Validator
from mobile_bundle.events.parse import events_schema


@functools.cache
def closed_schema() -> dict[str, Any]:
    """The schema of what this version writes: a field that it does not name is wrong, too."""
    schema = copy.deepcopy(events_schema())
    for definition in schema["$defs"].values():
        definition["additionalProperties"] = False
    return schema


@functools.cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$defs": closed_schema()["$defs"], "$ref": f"#/$defs/{name}"})


def event_of(line: str | bytes, command: str | None = None) -> dict[str, Any]:
    """The event in a line. command: that wrote it ("mobile-run serve"), which the schema must name."""
    event = json.loads(line)
    definition = events_schema()["$defs"].get(event["event"], {})
    assert "written_by" in definition, f"no event of the schema: {line!r}"
    assert command is None or command in definition["written_by"], (command, line)
    _validator(event["event"]).validate(event)
    return event


def events_of(text: str, command: str | None = None) -> list[dict[str, Any]]:
    """The events of a whole output: every line must be one."""
    return [event_of(line, command) for line in text.removesuffix("\n").split("\n")]
