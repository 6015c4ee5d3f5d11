"""A bundle in onnxruntime-genai itself: it binds the graph by genai_config.json and gives the engine's tokens."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime_genai
import pytest
from mobile_bundle.native.engine import Model
from support.onnx_programs import onnx_library
from support.paths import EXAMPLE
from support.prompts import prompt_tokens

pytestmark = pytest.mark.full

NEW = 24


@pytest.fixture(scope="module")
def ready(bundle, tmp_path_factory) -> Path:
    """A bundle with what onnxruntime-genai wants beside it: the operator library and the tokenizer's files."""
    directory = tmp_path_factory.mktemp("genai") / "b.mbundle"
    shutil.copytree(bundle("affine-4bit", EXAMPLE, ("native", "onnx")), directory)
    for file in (onnx_library(), *EXAMPLE.glob("tokenizer*.json")):
        shutil.copy(file, directory)
    return directory


@pytest.fixture(scope="module")
def generator(ready) -> Callable[..., onnxruntime_genai.Generator]:
    """generator(tokens, search options...): a generator that has read the tokens; all share one model."""
    model = onnxruntime_genai.Model(str(ready))

    def make(tokens: list[int], **options: object) -> onnxruntime_genai.Generator:
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(**{"max_length": len(tokens) + NEW, "do_sample": False, **options})
        made = onnxruntime_genai.Generator(model, parameters)
        made.append_tokens(np.array([tokens], np.int32))
        return made

    return make


def engine_text(directory: Path, tokens: list[int]) -> list[int]:
    """The tokens, and what the engine says after them."""
    said = list(tokens)
    with Model(directory) as engine, engine.session() as session:
        logits = session.feed(tokens)
        while len(said) < len(tokens) + NEW:
            said.append(int(logits.argmax()))
            logits = session.feed(said[-1:])
    return said


def finish(made: onnxruntime_genai.Generator) -> list[int]:
    while not made.is_done():
        made.generate_next_token()
    return made.get_sequence(0).tolist()


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("length", [1, 33, 300])
def test_its_tokens_are_the_engine_s(ready, generator, length, share):
    tokens = prompt_tokens(ready, length)
    assert finish(generator(tokens, past_present_share_buffer=share)) == engine_text(ready, tokens)


@pytest.mark.parametrize("share", [True, False])
def test_a_generator_that_goes_back(ready, generator, share):
    tokens = prompt_tokens(ready, 40)
    made = generator(tokens, past_present_share_buffer=share)
    finish(made)
    made.rewind_to(20)
    made.append_tokens(np.array([tokens[20:]], np.int32))
    assert finish(made) == engine_text(ready, tokens)


def test_two_generators_in_turns(ready, generator):
    texts = [prompt_tokens(ready, 30), prompt_tokens(ready, 31)[1:]]
    both = [generator(text) for text in texts]
    while not all(made.is_done() for made in both):
        for made in both:
            if not made.is_done():
                made.generate_next_token()
    for made, text in zip(both, texts, strict=True):
        assert made.get_sequence(0).tolist() == engine_text(ready, text)


def test_beams_are_refused(generator):
    with pytest.raises(Exception, match=r"input_ids|one sequence"):
        generator([1, 2, 3], num_beams=2).generate_next_token()
