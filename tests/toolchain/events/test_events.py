"""The one parser of events: what the schema says, a newer program's additions, and lines that are no good."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from mobile_bundle.events.kinds import (
    EVENTS,
    BenchEvent,
    DoneEvent,
    ExitEvent,
    LoadEvent,
    Memory,
    Predicted,
    PromptEvent,
    TokenEvent,
)
from mobile_bundle.events.parse import EventError, events_schema, parse_event, read_events, read_output

DEFINITIONS = events_schema()["$defs"]
TYPES = {int: "integer", float: "number", str: "string", bool: "boolean", list[float]: "array"}
MEMORY = {"peak_rss_bytes": 9, "peak_anon_bytes": 3, "anon_bytes": 3, "file_bytes": 5, "swap_bytes": 0,
          "major_faults": 1}  # fmt: skip
DONE = {"event": "done", "reason": "eos", "prompt_tokens": 4, "tokens": 2, "seconds": 0.5, "tokens_per_second": 4.0,
        "prompt_tokens_per_second": 8.0, "first_token_seconds": 0.25, "predicted_peak_bytes": 10,
        "memory": MEMORY}  # fmt: skip


def plain(annotation: Any) -> tuple[Any, bool]:
    """(the type, whether None is allowed)."""
    if isinstance(annotation, types.UnionType):
        (kind,) = [part for part in typing.get_args(annotation) if part is not type(None)]
        return kind, True
    return annotation, False


@pytest.mark.parametrize(("name", "kind"), [*EVENTS.items(), ("memory", Memory), ("predicted", Predicted)])
def test_a_class_has_the_fields_of_its_event(name, kind):
    definition = DEFINITIONS[name]
    hints = typing.get_type_hints(kind)
    said = {field for field in definition["properties"] if field != "event"}
    assert said == set(hints)
    required = set(definition["required"]) - {"event"}
    assert required == {f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING}
    for field, annotation in hints.items():
        wanted, _ = plain(annotation)
        described = definition["properties"][field]
        if "$ref" in described:
            assert described["$ref"] == f"#/$defs/{field}"
            assert wanted is {"memory": Memory, "predicted": Predicted}[field]
        else:
            assert described["type"] == TYPES[wanted], field


def test_the_schema_is_one_and_lists_every_event():
    Draft202012Validator.check_schema(events_schema())
    listed = {choice["$ref"].rpartition("/")[2] for choice in events_schema()["oneOf"]}
    assert listed == set(EVENTS) == {name for name, d in DEFINITIONS.items() if "written_by" in d}
    for name in EVENTS:
        assert DEFINITIONS[name]["properties"]["event"] == {"const": name}
    Draft202012Validator(events_schema()).validate(DONE)


def test_a_line_becomes_its_event():
    event = parse_event(json.dumps(DONE))
    assert isinstance(event, DoneEvent)
    assert (event.reason, event.tokens, event.memory.peak_rss_bytes) == ("eos", 2, 9)
    exited = parse_event('{"event":"exit","status":127,"reason":"no such file"}')
    assert exited == ExitEvent(status=127, reason="no such file")


def test_what_the_first_runners_did_not_say_has_a_default():
    assert parse_event('{"event":"prompt","tokens":3,"seconds":1,"tokens_per_second":3.0}') == PromptEvent(3, 1, 3.0)
    predicted = {"file_bytes": 1, "anon_bytes": 2, "kv_bytes_per_token": 3, "peak_bytes": 4}
    line = {"event": "load", "bundle": "b", "kernels": "avx2", "threads": 1, "context": 8, "load_seconds": 0.1,
            "predicted": predicted}  # fmt: skip
    event = parse_event(json.dumps(line))
    assert isinstance(event, LoadEvent)
    assert event.runtime == "native"


def test_a_newer_program_may_say_more():
    more = {**DONE, "joules": 3, "memory": {**MEMORY, "gpu_bytes": 1}}
    assert parse_event(json.dumps(more)) == parse_event(json.dumps(DONE))
    assert parse_event('{"event":"thought","text":"hm"}') is None


@pytest.mark.parametrize(
    "line",
    ["", "loading", "[]", "{", '{"event":"done","reas', '{"x":1}', '{"event":7}', '{"event":["done"]}',
     '{"samples_ts":[1.0],"n_threads":4}', json.dumps(DONE)[:-1], '{"event":"token","id":NaN,"text":""}'],
)  # fmt: skip
def test_what_is_no_event_is_passed_over(line):
    assert parse_event(line) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokens": None}, "at tokens: None is not of type 'integer'"),
        ({"tokens": 1.5}, "at tokens: 1.5 is not of type 'integer'"),
        ({"seconds": "0.5"}, "at seconds: '0.5' is not of type 'number'"),
        ({"tokens": True}, "at tokens: True is not of type 'integer'"),
        ({"prompt_tokens": -1}, "at prompt_tokens: -1 is less than the minimum of 0"),
        ({"memory": {}}, "is a required property"),
        ({"memory": {**MEMORY, "swap_bytes": "no"}}, "at memory/swap_bytes: 'no'"),
        ({"reason": ...}, "'reason' is a required property"),
    ],
)
def test_an_event_that_is_not_as_it_must_be_is_one_clear_error(change, words):
    line = {name: value for name, value in {**DONE, **change}.items() if value is not ...}
    with pytest.raises(EventError) as error:
        list(read_events(["starting", json.dumps(line)]))
    assert str(error.value).startswith("the event 'done' is invalid")
    assert words in str(error.value)
    assert "the same mobile-bundle version" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "line",
    ['{"event":"exit"}', '{"event":"exit","status":0}', '{"event":"exit","status":0,"signal":9,"reason":"x"}',
     '{"event":"bench","test":"pp1","threads":1,"tokens_per_second":[],"load_seconds":0,"first_token_seconds":0,'
     '"memory":' + json.dumps(MEMORY) + "}"],
)  # fmt: skip
def test_an_end_without_its_figures_is_refused(line):
    with pytest.raises(EventError):
        parse_event(line)


def test_rates_stay_a_list():
    line = {"event": "bench", "test": "tg8", "threads": 2, "tokens_per_second": [1.5, 2], "load_seconds": 0.1,
            "first_token_seconds": 0.2, "memory": MEMORY}  # fmt: skip
    event = parse_event(json.dumps(line))
    assert isinstance(event, BenchEvent)
    assert event.tokens_per_second == [1.5, 2]


def test_only_a_line_feed_ends_a_line():
    text = "a\u2028b\x85c\x1cd"
    lines = [json.dumps({"event": "token", "id": 7, "text": text}, ensure_ascii=False), "Loading", "{"]
    assert list(read_output("\n".join(lines).encode())) == [TokenEvent(7, "a\u2028b\x85c\x1cd")]
    assert list(read_output(b'{"event":"token","id":1,"text":"\xff"}\r\n')) == [TokenEvent(1, "\ufffd")]
