"""Which tokens are allowed: the trie, counted characters and masks of states that are alike give what trying every
token gives."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from mobile_bundle.errors import ArgumentError
from mobile_bundle.native.constraint import JSON_SCHEMA, REGEX, Constraint, Vocabulary
from mobile_bundle.native.sampler import Sampler, Sampling
from mobile_bundle.native.tokenizer import Tokenizer
from support.constrained import RandomModel, allowed_tokens
from support.trained_tokenizers import small_tokenizer

FORMS = [
    (REGEX, "[a-z]{1,40}( [a-z]{1,9}){20,60}"),
    (REGEX, '[^"]{0,70}'),
    (REGEX, ".{30,45}"),
    (REGEX, "(é|中|日本|[a-f]+|\\d{1,3}[.,]?)*"),
    (REGEX, "(\\w+ ){3}"),
    (JSON_SCHEMA, '{"type": "string", "maxLength": 60}'),
    (JSON_SCHEMA, '{"type": "string", "minLength": 25, "maxLength": 31}'),
    (JSON_SCHEMA, '{"type": "array", "items": {"type": ["string", "number"], "minLength": 2}}'),
    (JSON_SCHEMA, '{"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}'),
]


@pytest.fixture(scope="module", params=["gpt2", "llama2", "the example's"])
def model(request, tmp_path_factory, bundle) -> RandomModel:
    if request.param == "the example's":
        return RandomModel(bundle("affine-4bit") / "tokenizer.bin", end=0)
    return RandomModel(small_tokenizer(request.param, tmp_path_factory.mktemp("tokenizer")), end=2)


@pytest.mark.parametrize(("kind", "text"), FORMS)
def test_they_are_those_that_fit_one_by_one(model, kind, text):
    chance = random.Random(text)
    with Constraint(model.vocabulary, kind, text) as constraint:
        for _ in range(2):
            constraint.begin()
            for _ in range(40):
                allowed = allowed_tokens(constraint.allowed())
                fitting = {token for token in range(model.size) if constraint.fitting([token])}
                assert allowed == fitting | ({model.end} if constraint.may_end else set())
                going_on = sorted(fitting)
                if not going_on:
                    break
                token = chance.choice(going_on)
                follower = chance.choice(going_on)
                fits_both = constraint.fitting([token, follower])
                constraint.accept(token)
                assert fits_both == 1 + constraint.fitting([follower])


def test_a_token_that_is_not_allowed_changes_nothing(model):
    with Constraint(model.vocabulary, REGEX, "ab?") as constraint:
        a = min(token for token in range(model.size) if model.text([token]) == "a" and constraint.fitting([token]))
        for wrong in (-1, model.size, model.size + 1000, model.size - 1, model.end, 1):
            with pytest.raises(ArgumentError):
                constraint.accept(wrong)
            assert constraint.fitting([wrong]) == 0
        constraint.accept(a)
        assert constraint.may_end
        assert not constraint.complete
        constraint.accept(model.end)
        assert constraint.complete
        with pytest.raises(ArgumentError):
            constraint.accept(a)


def test_what_a_vocabulary_cannot_write_is_said(tmp_path):
    """Without byte tokens, and without the character."""
    path = small_tokenizer("llama2 unknown", tmp_path)
    tokenizer = Tokenizer(path)
    with (
        Vocabulary(tokenizer, tokenizer.vocabulary, [2]) as vocabulary,
        Constraint(vocabulary, REGEX, "🦊") as constraint,
        pytest.raises(ArgumentError, match="vocabulary has no token"),
    ):
        constraint.allowed()
    tokenizer.close()


def test_memory_is_what_it_was_when_opened(tmp_path):
    """Of any number of tokens: of this expression's 16,384 states most are reached, and they do not fit."""
    model = RandomModel(small_tokenizer("gpt2", tmp_path), end=2)
    expression = "[ab]*a[ab]{13}"
    with Constraint(model.vocabulary, REGEX, expression) as constraint:
        chance = random.Random(1)
        before, tokens = constraint.bytes, []
        for _ in range(20_000):
            tokens.append(chance.choice(sorted(allowed_tokens(constraint.allowed()) - {model.end})))
            constraint.accept(tokens[-1])
        assert constraint.may_end == bool(re.fullmatch(expression, model.text(tokens)))
        assert constraint.bytes == before < 5_000_000


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=1.1, seed=3),
        Sampling(temperature=0.9, top_k=4, seed=4),
        Sampling(temperature=0.9, top_p=0.6, seed=5),
        Sampling(temperature=0.9, min_p=0.1, seed=6, repetition_penalty=1.5),
    ],
)
def test_sampling_among_some_tokens_is_sampling_from_a_vocabulary_of_them(sampling):
    random = np.random.default_rng(8)
    for size in (33, 64, 700):
        some = np.sort(random.choice(size, size // 3, replace=False))
        mask = np.packbits(np.isin(np.arange((size + 31) // 32 * 32), some), bitorder="little").view(np.uint32)
        with Sampler(size, sampling) as masked, Sampler(len(some), sampling) as small:
            for _ in range(50):
                logits = random.standard_normal(size).astype(np.float32) * 3
                token = masked.sample(logits, mask)
                assert some[small.sample(logits[some])] == token
                masked.accept([token])
                small.accept([int(np.searchsorted(some, token))])


def test_sampling_among_no_tokens_is_refused():
    with Sampler(40, Sampling()) as sampler, pytest.raises(ArgumentError, match="no token is allowed"):
        sampler.sample(np.zeros(40, np.float32), np.zeros(2, np.uint32))
