"""What of a schema is not supported, or makes no sense, is refused in one line that names it and its place."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from mobile_bundle.errors import ArgumentError
from mobile_bundle.native.constraint import JSON_SCHEMA, Constraint
from support.constrained import RandomModel
from support.trained_tokenizers import small_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> RandomModel:
    return RandomModel(small_tokenizer("gpt2", tmp_path_factory.mktemp("tokenizer")), end=2)


def inside(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"type": "array", "items": schema}}}


REFUSED: list[tuple[Any, str]] = [
    *(({keyword: value}, f'the keyword "{keyword}" is not supported') for keyword, value in (
        ("not", {}), ("if", {}), ("patternProperties", {}), ("prefixItems", []), ("uniqueItems", True),
        ("contains", {}),
        ("multipleOf", 2), ("minProperties", 1), ("maxProperties", 1), ("propertyNames", {}), ("dependentRequired", {}),
        ("$dynamicRef", "#"), ("$anchor", "a"), ("unevaluatedProperties", False), ("nullable", True),
    )),
    (False, "a schema is neither an object nor true"),
    (5, "a schema is neither an object nor true"),
    ({"type": "text"}, "type is none of JSON Schema's types"),
    ({"type": ["string", 5]}, "type is none of JSON Schema's types"),
    ({"type": []}, "type is none of JSON Schema's types"),
    ({"properties": {"n" * 129: True}, "additionalProperties": {}}, "a property of so long a name"),
    ({"properties": {chr(n): {"type": "null"} for n in range(300, 1000, 2)}, "additionalProperties": {}}, "so many"),
    ({"properties": {"b": {"type": "null"}}, "required": ["c"]}, "required has a name that properties has not"),
    ({"properties": [], "required": []}, "properties is not an object"),
    ({"properties": {}, "required": "a"}, "required is not a list of strings"),
    ({"type": "array", "items": {"type": "null"}, "minItems": 3, "maxItems": 2}, "minItems is above maxItems"),
    ({"type": "array", "items": {"type": "null"}, "minItems": -1}, "minItems is not a whole number"),
    ({"type": "array", "items": {"type": "null"}, "minItems": 1.5}, "minItems is not a whole number"),
    ({"type": "array", "items": {"type": "string", "maxLength": 1000}, "minItems": 1000}, "too large"),
    ({"type": "string", "minLength": 1000000}, "too large"),
    ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength is above maxLength"),
    ({"pattern": "a", "maxLength": 2}, "pattern besides minLength or maxLength"),
    ({"pattern": "a", "format": "date"}, "pattern besides format"),
    ({"pattern": 5}, "pattern is not a string"),
    ({"format": "iri"}, "this format is not supported"),
    ({"type": "integer", "minimum": 3, "exclusiveMaximum": 3}, "no number is within minimum and maximum"),
    ({"type": "number", "exclusiveMinimum": 3, "maximum": 3}, "no number is within"),
    ({"type": "number", "minimum": 0.5}, "minimum of a number has to be whole"),
    ({"type": "integer", "minimum": 1e300}, "minimum is not a number, or too large"),
    ({"type": "integer", "minimum": True}, "minimum is not a number, or too large"),
    ({"type": "number", "exclusiveMaximum": 10**12}, "exclusiveMaximum is not a number, or too large"),
    ({"enum": 5}, "enum is not a list"),
    ({"enum": []}, "enum has no value"),
    ({"enum": ["a"], "type": "null"}, "enum has no value that is of the type"),
    ({"const": 1.5, "type": "integer"}, "const is not of the type"),
    ({"const": 1, "minimum": 0}, "const besides minimum is not supported"),
    ({"anyOf": [], }, "anyOf is empty"),
    ({"anyOf": {}}, "anyOf is not a list of schemas"),
    ({"anyOf": [{"type": "null"}], "type": "null"}, "anyOf besides type is not supported"),
    ({"allOf": [{"type": "null"}, {"type": "null"}]}, "allOf of more than one schema"),
    *(({"oneOf": pair}, "oneOf whose schemas may both hold") for pair in (
        [{"type": "integer"}, {"type": "number"}], [{"const": 1}, {"const": 1.0}], [{"const": 1}, {"type": "number"}],
        [{"enum": ["a", "b"]}, {"enum": ["c", "\u0062"]}], [{}, {"type": "null"}], [{"const": []}, {"const": [1]}],
        [{"properties": {"t": {"const": 1}}}, {"properties": {"t": {"const": 2}}}],
        [{"properties": {"t": {"const": 1}}, "required": ["t"]}, {"properties": {"t": {"const": 2}}}],
        [{"properties": {"t": {"const": 1}}, "required": ["t"]}, {"additionalProperties": {}}],
        [{"type": "null"}, {"anyOf": [{"type": "string"}]}],
    )),
    ({"$ref": "#/$defs/none"}, "$ref leads nowhere"),
    ({"$ref": "https://example.org/a"}, "$ref leads nowhere"),
    ({"$ref": 5}, "$ref is not a string"),
    ({"$ref": "#"}, "$ref leads to itself: a recursive schema is not supported"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_it_is_named(model, schema, message):
    with pytest.raises(ArgumentError, match=re.escape(message)) as caught:
        Constraint(model.vocabulary, JSON_SCHEMA, json.dumps(inside(schema)))
    assert "\n" not in str(caught.value)
    if message not in ("too large", "so many"):
        assert "(at #/properties/a/items" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ('{"type": "null"} x', "not valid JSON"),
        ("[" * 100 + "]" * 100, "too deeply nested"),
        ("[]", "a schema is neither an object nor true"),
        ('{"const": "\\ud800"}', "half of a surrogate pair"),
        ('{"const": "\\ud800\\u0041"}', "half of a surrogate pair"),
        ('{"enum": ["\\udc00\\ud800"]}', "half of a surrogate pair"),
        ('{"type": "null", "type": "null"}', '"type" stands there twice'),
        ('{"properties": {"a": {"type": "null"}, "\\u0061": {"type": "null"}}}', "properties has a name twice"),
        ('{"const": "\ud800"}', "not valid UTF-8"),
    ],
)  # fmt: skip
def test_texts_that_are_no_schemas(model, text, message):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        Constraint(model.vocabulary, JSON_SCHEMA, text)


def test_a_definition_that_leads_to_itself_by_others(model):
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/b"}]},
              "b": {"properties": {"c": {"$ref": "#/$defs/a"}}}}}  # fmt: skip
    with pytest.raises(ArgumentError, match="recursive"):
        Constraint(model.vocabulary, JSON_SCHEMA, json.dumps(schema))


def test_a_long_way_is_cut_in_the_message(model):
    schema: dict[str, Any] = {"not": {}}
    for _ in range(20):
        schema = {"properties": {"n" * 50: schema}}
    with pytest.raises(ArgumentError) as caught:
        Constraint(model.vocabulary, JSON_SCHEMA, json.dumps(schema))
    assert "..." in str(caught.value)
    assert len(str(caught.value)) <= 300
    for _ in range(20):
        schema = {"properties": {"n": schema}}
    with pytest.raises(ArgumentError, match="too deeply nested"):
        Constraint(model.vocabulary, JSON_SCHEMA, json.dumps(schema))
