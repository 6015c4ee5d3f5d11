"""A bundle that carries the state of its system prompt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mobile_bundle.api.build import build
from mobile_bundle.container.manifest import read_manifest
from mobile_bundle.container.verify import verify_bundle
from mobile_bundle.errors import ArgumentError
from mobile_bundle.native.engine import Model
from mobile_bundle.pack import pack_bundle
from mobile_bundle.pipeline.system_state import state_bound
from support.chat_templates import CHAT_TEMPLATE
from support.paths import EXAMPLE
from support.serve import serving

SYSTEM = "Be brief, and say nothing of the weather."


def model_with(directory: Path, template: str) -> Path:
    shutil.copytree(EXAMPLE, directory)
    config = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    return directory


@pytest.fixture(scope="module")
def chatty(tmp_path_factory) -> Path:
    return model_with(tmp_path_factory.mktemp("system") / "model", CHAT_TEMPLATE)


def test_conversations_that_begin_with_it_do_not_read_it(chatty, tmp_path):
    bundle = build(chatty, tmp_path / "a.mbundle", recipe="affine-4bit", system_prompt=SYSTEM)
    plain = build(chatty, tmp_path / "b.mbundle", recipe="affine-4bit")
    verify_bundle(bundle.path)
    files = read_manifest(bundle.path)["files"]
    assert set(files) - set(read_manifest(plain.path)["files"]) == {"system.state"}
    with Model(bundle.path) as model, model.session() as session:
        held = len(session.resume(bundle.path / "system.state"))
    from mobile_bundle.models import open_model

    with open_model(chatty) as source:
        bound = state_bound(source.spec, held)
    assert bound - 1024 < files["system.state"]["bytes"] <= bound
    with serving(plain.path) as without, serving(bundle.path) as server:
        for question in ("What is water?", "Why?", "1"):
            messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
            answer = server.ask(messages=messages, max_new_tokens=6)
            expected = without.ask(messages=messages, max_new_tokens=6)
            assert answer[0]["kept_tokens"] >= held > 8
            assert [e for e in answer if e["event"] == "token"] == [e for e in expected if e["event"] == "token"]
        other = [{"role": "system", "content": "Be long."}, {"role": "user", "content": "Why?"}]
        assert server.ask(messages=other, max_new_tokens=6)[0]["kept_tokens"] < held
    # its weights must not be coded again: the state belongs to them
    packed = pack_bundle(bundle.path, tmp_path / "a.zip", progress=lambda *_: None)
    assert "system.state" in packed.note


@pytest.mark.parametrize(
    ("template", "prompt", "words"),
    [
        (CHAT_TEMPLATE, "", "must be a text"),
        (CHAT_TEMPLATE, "word " * 600, "the context has room for"),
        ("{{ messages[-1]['content'] }}", SYSTEM, "begins no conversation with it"),
        ("{{ strftime_now('%Y-%m-%d') }} {{ messages[0]['content'] }}: {{ messages[-1]['content'] }}", SYSTEM, "date"),
    ],
    ids=["empty", "long", "left out", "date"],
)
def test_a_state_that_would_not_be_right_is_refused(tmp_path, template, prompt, words):
    model = model_with(tmp_path / "model", template)
    with pytest.raises(ArgumentError, match=words):
        build(model, tmp_path / "a.mbundle", recipe="affine-4bit", system_prompt=prompt)
    assert not (tmp_path / "a.mbundle").exists()


def test_a_model_without_chat_template_has_none(tmp_path):
    with pytest.raises(ArgumentError, match="no chat template"):
        build(EXAMPLE, tmp_path / "a.mbundle", recipe="affine-4bit", system_prompt=SYSTEM)
