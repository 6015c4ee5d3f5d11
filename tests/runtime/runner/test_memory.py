"""The peak that `load` predicts holds whatever a request asks for: VmHWM of a fresh process of the real runner."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mobile_bundle.api.bundle import Bundle
from mobile_bundle.native.constraint import REGEX, Constraint, Vocabulary, most_form_bytes
from mobile_bundle.native.tokenizer import Tokenizer
from support.paths import EXAMPLE
from support.serve import Server, serving

pytestmark = pytest.mark.serial

TEXT = "The history of the city and of its people. "
OPTIONS = ("--context", "512", "--threads", "2")
BUFFER = 256 << 10
"""Bytes that saving a state and taking one up need for a moment."""

LARGE = {
    "steps": "(a|b|c){20000}",  # of the program: near the most that there may be
    "states": "[^a]{1,9000}",
    "masks": "([a-z]{1,12} ){20,60}",
    "sets": "(a|b)*a(a|b){300}",
}


def peak(server: Server) -> int:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def fill(server: Server, **options: Any) -> None:
    """Has every position of the context used."""
    done = server.ask(prompt=TEXT * 30, max_new_tokens=512, ignore_eos=True, **options)[-1]
    assert done["reason"] == "context"


def near(server: Server, more: int = 0) -> None:
    """Within a tenth of the prediction and `more` bytes."""
    predicted = server.load["predicted"]["peak_bytes"]
    assert 0.9 * predicted <= peak(server) <= 1.1 * predicted + more


@pytest.mark.parametrize("form", LARGE)
def test_a_form_takes_no_more_than_load_says(bundle, form):
    with serving(bundle("affine-4bit"), *OPTIONS) as server:
        predicted = server.load["predicted"]
        fill(server)
        done = server.ask(prompt=TEXT, regex=LARGE[form], max_new_tokens=300, temperature=3, seed=1)[-1]
        assert done["event"] == "done"
        assert peak(server) <= predicted["peak_bytes"] + predicted["form_bytes"]
        assert done["predicted_peak_bytes"] <= predicted["peak_bytes"] + predicted["form_bytes"]


def test_a_form_that_would_take_more_is_refused_by_name(bundle):
    texts = {"type": "array", "items": {"type": "string", "maxLength": 200}, "maxItems": 200}
    long = "a" * (256 * 1024)
    with serving(bundle("affine-4bit"), *OPTIONS) as server:
        predicted = server.load["predicted"]
        for members, message in (
            ({"regex": "(a|b|c){60000}"}, "the answer's form is too large"),
            ({"json_schema": texts}, "the answer's form is too large"),
            ({"regex": long + "a"}, "a regex of 262145 bytes: at most 262144"),
            ({"json_schema": {"description": long}}, "a json_schema of "),
        ):
            (error,) = server.ask(prompt=TEXT, **members)
            assert (error["event"], error["kind"]) == ("error", "argument")
            assert message in error["message"]
        assert peak(server) <= predicted["peak_bytes"] + predicted["form_bytes"]
        assert server.ask(prompt=TEXT, regex="yes|no")[-1]["reason"] == "eos"


def test_the_manifest_has_the_bound_and_it_is_what_the_library_can_reach(bundle):
    directory = bundle("affine-4bit")
    manifest = Bundle(directory).manifest
    bound, size = manifest.predicted.form_bytes, manifest.model.vocabulary
    with serving(directory, *OPTIONS) as server:
        assert server.load["predicted"]["form_bytes"] == bound
    assert bound == most_form_bytes((directory / "tokenizer.bin").read_bytes(), size)
    tokenizer = Tokenizer(directory / "tokenizer.bin")
    with Vocabulary(tokenizer, size, []) as vocabulary, Constraint(vocabulary, REGEX, LARGE["steps"]) as constraint:
        taken = vocabulary.bytes + constraint.bytes
    tokenizer.close()
    assert 0.7 * bound < taken <= bound


@pytest.mark.parametrize(
    "options", [["--kv", "int8"], ["--kv", "k8v4"], ["--kv", "int4"], ["--kv", "f16"], ["--lookup", "16"]]
)
def test_a_full_context_is_predicted_for_every_cache_and_with_lookup(bundle, options):
    with serving(bundle("affine-4bit"), *OPTIONS, *options) as server:
        fill(server)
        near(server)


@pytest.mark.parametrize("kv", ["int8", "k8v4", "int4"])
def test_saving_a_state_and_taking_one_up_need_a_buffer(bundle, tmp_path, kv):
    path = str(tmp_path / "full.state")
    with serving(bundle("affine-4bit"), *OPTIONS, "--kv", kv) as server:
        fill(server)
        assert server.ask(save=path)[-1]["action"] == "saved"
        near(server, BUFFER)
    with serving(bundle("affine-4bit"), *OPTIONS, "--kv", kv) as server:
        assert server.ask(resume=path)[-1]["action"] == "resumed"
        fill(server)
        near(server, BUFFER)


def test_a_context_that_goes_on_takes_no_more_than_a_full_one(bundle, tmp_path):
    model = tmp_path / "chatty"
    shutil.copytree(EXAMPLE, model)
    config = json.loads((model / "tokenizer_config.json").read_text())
    template = "{% for message in messages %}<|endoftext|>{{ message.role }}: {{ message.content }}\n{% endfor %}"
    (model / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    messages = []
    for turn in range(9):
        messages += [{"role": "user", "content": f"{turn}: {TEXT * 3}"}, {"role": "assistant", "content": "Yes."}]
    with serving(bundle("affine-4bit", model), *OPTIONS) as server:
        for more in (1, 2, 3):
            asked = [*messages, {"role": "user", "content": TEXT * more}]
            done = server.ask(messages=asked, max_new_tokens=400, ignore_eos=True, full_context="move")[-1]
            assert done["reason"] == "length"  # it went on behind the end of the context
        near(server)
