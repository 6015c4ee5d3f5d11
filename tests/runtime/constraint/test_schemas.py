"""Answers by JSON schemas: whatever the model would like to say, what comes out is valid."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
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


def _schemas() -> Iterator[tuple[int, dict[str, Any]]]:
    chance = random.Random(16)
    for number in range(SCHEMAS):
        yield number, random_schema(chance)


def test_answers_of_random_schemas_are_valid(models):
    finished = 0
    for number, schema in _schemas():
        text = json.dumps(schema, ensure_ascii=number % 2 == 0)
        jsonschema.Draft202012Validator.check_schema(schema)
        model = models[number % len(models)]
        with Constraint(model.vocabulary, JSON_SCHEMA, text) as constraint:
            tokens, ended = model.answer(constraint, number, most=1500, patience=30)
        if ended:
            finished += 1
            answer = model.text(tokens)
            value = json.loads(answer)
            jsonschema.Draft202012Validator(schema).validate(value)
            assert answer == json.dumps(value, ensure_ascii=False) or "." in answer or "e" in answer.lower()
    assert finished == SCHEMAS
