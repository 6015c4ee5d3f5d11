"""`json_schema` and `regex`: requests to serve, the command line and Python."""

from __future__ import annotations

import json
import re
import subprocess

import jsonschema
import pytest
from mobile_bundle.api.bundle import Bundle
from mobile_bundle.errors import ArgumentError
from mobile_bundle.native.programs import bundle_runner
from mobile_bundle.native.sampler import Sampling
from support.serve import serving

PROMPT = "The history of the city"
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "colours": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def text(events) -> str:
    return "".join(event["text"] for event in events if event["event"] == "token")


def check(answer: str) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(answer))


@pytest.mark.parametrize("options", [[], ["--lookup", "8"]])
def test_answers_have_the_form_however_they_are_sampled(bundle, options):
    with serving(bundle("affine-4bit"), *options) as server:
        free = text(server.ask(prompt=PROMPT, max_new_tokens=20))
        seen = set()
        for sampling in (
            {},
            {"temperature": 1.5, "seed": 3},
            {"temperature": 2, "top_k": 5, "seed": 4},
            {"temperature": 2, "top_p": 0.5, "seed": 5},
            {"temperature": 2, "min_p": 0.1, "seed": 6},
            {"repetition_penalty": 1.3},
        ):
            for _ in range(2):  # the second time with what was made for the first
                events = server.ask(prompt=PROMPT, json_schema=SCHEMA, max_new_tokens=400, **sampling)
                assert events[-1]["reason"] == "eos"
                check(text(events))
                seen.add(text(events))
            events = server.ask(prompt=PROMPT, regex=r"\d{4}-(0[1-9]|1[0-2])", max_new_tokens=400, **sampling)
            assert re.fullmatch(r"[0-9]{4}-(0[1-9]|1[0-2])", text(events))
            assert events[-1]["reason"] == "eos"
        assert len(seen) > 3
        assert text(server.ask(prompt=PROMPT, max_new_tokens=20)) == free


def test_lookup_changes_nothing(bundle):
    prompt = PROMPT + ' {"name": "The city", "age": 40, "colours": ["red", "green"]} {"name": "The city", "age": 40'
    answers = []
    for options in ([], ["--lookup", "16"]):
        with serving(bundle("affine-4bit"), *options) as server:
            for sampling in ({}, {"temperature": 1, "seed": 9}):
                answers.append([e for e in server.ask(prompt=prompt, json_schema=SCHEMA, **sampling)
                                if e["event"] == "token"])  # fmt: skip
    assert answers[:2] == answers[2:]


def test_an_answer_that_is_cut_says_so(bundle):
    with serving(bundle("affine-4bit")) as server:
        whole = server.ask(prompt=PROMPT, json_schema=SCHEMA, max_new_tokens=400)
        tokens = whole[-1]["tokens"]
        cut = server.ask(prompt=PROMPT, json_schema=SCHEMA, max_new_tokens=tokens - 1)
        assert cut[-1]["reason"] == "length"
        assert text(whole).startswith(text(cut))
        assert server.ask(prompt=PROMPT, json_schema=SCHEMA, max_new_tokens=tokens)[-1]["reason"] == "eos"
        stopped = server.ask(prompt=PROMPT, json_schema=SCHEMA, max_new_tokens=400, stop=['"age"'])
        assert stopped[-1]["reason"] == "stop"
        assert text(stopped) == text(whole).split('"age"')[0]


def test_the_predicted_memory_covers_it(bundle):
    with serving(bundle("affine-4bit")) as server:
        plain = server.ask(prompt=PROMPT, max_new_tokens=3)[-1]
        formed = server.ask(prompt=PROMPT, json_schema=SCHEMA, max_new_tokens=400)[-1]
        assert formed["predicted_peak_bytes"] > plain["predicted_peak_bytes"]
        assert formed["memory"]["peak_rss_bytes"] <= formed["predicted_peak_bytes"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"json_schema": SCHEMA, "regex": "a"}, "either a json_schema or a regex"),
        ({"json_schema": "text"}, "not an object"),
        ({"json_schema": True}, "not an object"),
        ({"regex": 5}, "not a string"),
        ({"regex": "("}, "a group does not end"),
        ({"json_schema": {"type": "object", "patternProperties": {}}}, '"patternProperties" is not supported (at #)'),
        ({"json_schema": SCHEMA, "ignore_eos": True}, "leave out ignore_eos"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(bundle, members, message):
    with serving(bundle("affine-4bit")) as server:
        (error,) = server.ask(prompt=PROMPT, **members)
        assert (error["event"], error["kind"]) == ("error", "argument")
        assert message in error["message"]
        assert "\n" not in error["message"]
        check(text(server.ask(prompt=PROMPT, json_schema=SCHEMA, max_new_tokens=400)))


def generate(directory, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [bundle_runner(directory), "generate", directory, "--prompt", PROMPT, "--max-new-tokens", "400", *options],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_the_command_line_has_both(bundle, tmp_path):
    directory, file = bundle("affine-4bit"), tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA, indent=2))
    check(generate(directory, "--json-schema", str(file)).stdout)
    assert re.fullmatch("(yes|no)", generate(directory, "--regex", "yes|no").stdout.strip())
    for options, code, message in (
        (["--regex", "a", "--json-schema", str(file)], 2, "not both"),
        (["--regex", "*"], 2, "regex: "),
        (["--json-schema", str(tmp_path / "none")], 1, "none"),
        (["--regex", "a", "--ignore-eos"], 2, "ignore_eos"),
    ):
        process = generate(directory, *options)
        assert (process.returncode, process.stdout) == (code, "")
        assert message in process.stderr
        assert process.stderr.count("\n") == 1


def test_python_says_what_serve_says(bundle):
    directory = bundle("affine-4bit")
    sampling = Sampling(temperature=1.3, seed=11)
    with serving(directory) as server, Bundle(directory).load() as model:
        said = text(server.ask(prompt=PROMPT, json_schema=SCHEMA, max_new_tokens=400, temperature=1.3, seed=11))
        for schema in (SCHEMA, json.dumps(SCHEMA)):
            pieces = list(model.stream(PROMPT, json_schema=schema, max_new_tokens=400, sampling=sampling))
            assert "".join(piece.text for piece in pieces) == said
            assert pieces[-1].ended == "eos"
        answer = "".join(piece.text for piece in model.stream(PROMPT, regex="(red|green), [0-9]{2}"))
        assert re.fullmatch("(red|green), [0-9]{2}", answer)
        for wrong in ({"regex": "a", "json_schema": "{}"}, {"regex": "a", "ignore_eos": True}, {"regex": "(a"},
                      {"json_schema": {"type": {1, 2}}}):  # fmt: skip
            with pytest.raises(ArgumentError):
                list(model.stream(PROMPT, **wrong))
