"""Regular expressions: what matches, and what is refused."""

from __future__ import annotations

import random
import re

import pytest
from mobile_bundle.errors import ArgumentError
from mobile_bundle.native.constraint import JSON_SCHEMA, REGEX, Constraint
from support.constrained import RandomModel
from support.expressions import EXPRESSIONS
from support.trained_tokenizers import small_tokenizer

REFUSED = {
    "(": "does not end",
    ")": "without its (",
    "a)": "without its (",
    "[a": "does not end",
    "[]": "empty class",
    "[b-a]": "before its begin",
    "*": "something to repeat",
    "a**": "quantifier of a quantifier",
    "a{2": "does not end",
    "a{,3}": "count",
    "a{3,2}": "below its least",
    "a{99999}": "count",
    "(?=a)": "lookaround",
    "(?<n>a)": "lookaround",
    "\\b": "escape",
    "\\1": "escape",
    "\\p{L}": "escape",
    "\\": "escape",
    "\\ud800": "surrogate",
    "\\xg1": "hexadecimal",
    "a^b": "^ and $",
    "(^a)": "^ and $",
    "[^\\u0000-\\uffff\U00010000-\U0010ffff]": "no character",
    "[\\d-z]": "begins with a class",
    "[a-\\d]": "ends with a class",
    "((a{999}){999}){999}": "too large",
    "(" * 65 + ")" * 65: "too deeply",
    "(a{1000}){1000}": "too large",
    "(" * 9 + "a" + "{900})" * 9: "too large",
}
ALPHABET = "aabbcABC019_- \t\n\r.é中ü🎉()[]{}*+?|^$/\x00\x85\u2028"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> RandomModel:
    return RandomModel(small_tokenizer("gpt2", tmp_path_factory.mktemp("tokenizer")), end=2)


def matches(constraint: Constraint, tokens: list[int]) -> bool:
    constraint.begin()
    try:
        for token in tokens:
            constraint.accept(token)
    except ArgumentError:
        return False
    return constraint.may_end


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_matches_matches_in_python(model, expression):
    chance = random.Random(expression)
    pattern = re.compile(expression)
    with Constraint(model.vocabulary, REGEX, expression) as constraint:
        texts = ["".join(chance.choices(ALPHABET, k=chance.randint(0, 6))) for _ in range(400)]
        texts += [text for part in re.findall(r"\w+", expression) for text in (part, part * 2)]
        for text in texts:
            ours = matches(constraint, model.tokenizer.encode(text).tolist())
            theirs = pattern.fullmatch(text) is not None
            # \w, \d, \s and . stand for less here: all that matches here matches there.
            assert (
                ours == theirs
                or (theirs and re.search(r"\\[dwsDWS]|\.", expression) and not text.isascii())
                or (theirs and "." in expression and "\r" in text)
            ), text
        for seed in range(30):
            tokens, ended = model.answer(constraint, seed, most=60, patience=10)
            assert not ended or pattern.fullmatch(model.text(tokens)), tokens


@pytest.mark.parametrize("expression", REFUSED)
def test_what_is_not_an_expression_is_refused(model, expression):
    with pytest.raises(ArgumentError, match=re.escape(REFUSED[expression])) as caught:
        Constraint(model.vocabulary, REGEX, expression)
    assert "\n" not in str(caught.value)
    if "too" not in REFUSED[expression]:
        assert re.match(r"regex: .* \(byte \d+\)$", str(caught.value))


def test_a_pattern_s_place_is_said(model):
    with pytest.raises(
        ArgumentError, match=re.escape("json_schema: #/properties/a/pattern: a group does not end (byte 1)")
    ):
        Constraint(model.vocabulary, JSON_SCHEMA, '{"properties": {"a": {"pattern": "("}}}')
