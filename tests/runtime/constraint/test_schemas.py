"""Answers by JSON schemas: whatever the model would like to say, what comes out is valid."""

from __future__ import annotations

import json
import random

import jsonschema
import pytest
from mobile_bundle.errors import ArgumentError
from mobile_bundle.native.constraint import JSON_SCHEMA, Constraint
from support.constrained import RandomModel
from support.random_schemas import random_schema
from support.trained_tokenizers import small_tokenizer

SCHEMAS = 1000


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[RandomModel]:
    """Of each kind of tokenizer one."""
    kinds = ("gpt2", "llama3", "llama2", "gemma", "unigram bytes")
    return [RandomModel(small_tokenizer(kind, tmp_path_factory.mktemp("tokenizer")), end=2) for kind in kinds]


def test_answers_of_random_schemas_are_valid(models):
    chance = random.Random(16)
    finished = refused = number = 0
    while finished < SCHEMAS:
        number += 1
        schema = random_schema(chance)
        text = json.dumps(schema, ensure_ascii=number % 2 == 0)
        jsonschema.Draft202012Validator.check_schema(schema)
        model = models[number % len(models)]
        try:
            constraint = Constraint(model.vocabulary, JSON_SCHEMA, text)
        except ArgumentError as error:
            if "too large" not in str(error):  # as lists of lists of lists are
                raise
            refused += 1
            continue
        with constraint:
            tokens, ended = model.answer(constraint, number, most=2500, patience=30)
        assert ended, schema
        finished += 1
        jsonschema.Draft202012Validator(schema).validate(json.loads(model.text(tokens)))
    assert refused < SCHEMAS // 20


def test_values_have_one_form(models):
    """json.dumps's."""
    value = {"é": [1, -2.5, 'a\tb"\\/\u0001中🎉', {}], "b": {"c": [], "d": [None, True, [False]]}}
    schema = {"properties": {"v": {"const": value}, "w": {"enum": [value]}}, "required": ["v", "w"]}
    for ascii_only in (False, True):
        text = json.dumps(schema, ensure_ascii=ascii_only, indent=3)
        for model in models:
            with Constraint(model.vocabulary, JSON_SCHEMA, text) as constraint:
                tokens, _ = model.answer(constraint, 1, most=2500, patience=30)
            assert model.text(tokens) == json.dumps({"v": value, "w": value}, ensure_ascii=False)


def test_names_that_are_not_listed_are_others(models):
    schema = {
        "properties": {name: {"type": "null"} for name in ("a", "ab", "abc", "b", "é", "ê", "", 'q"')},
        "additionalProperties": {"type": "boolean"},
    }
    model = models[0]
    with Constraint(model.vocabulary, JSON_SCHEMA, json.dumps(schema)) as constraint:

        def is_one(answer: str) -> bool:
            constraint.begin()
            try:
                for token in model.tokenizer.encode(answer).tolist():
                    constraint.accept(token)
            except ArgumentError:
                return False
            return constraint.may_end

        for name in ("c", "aa", "abcd", "abd", "ac", "ba", "è", "éé", "中", " ", "a b" * 50):
            assert is_one(json.dumps({name: True}, ensure_ascii=False)), name
            assert is_one(json.dumps({"ab": None, name: True, name + "x": False}, ensure_ascii=False)), name
            assert not is_one(json.dumps({name: None}, ensure_ascii=False)), name
        for name in ("a", "ab", "abc", "b", "é", "ê", "", 'q"'):
            assert is_one(json.dumps({name: None}, ensure_ascii=False)), name
            assert not is_one(json.dumps({name: True}, ensure_ascii=False)), name
            assert not is_one(json.dumps({"z": True, name: True}, ensure_ascii=False)), name
