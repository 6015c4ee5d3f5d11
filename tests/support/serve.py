"""A running `mobile-run serve`, and lines for it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mobile_bundle.native.programs import bundle_runner
from support.events import event_of

GOOD_REQUESTS = [
    '{"prompt":"The history","max_new_tokens":3}',
    r'{"prompt":"a\u00e9\ud83c\udf89\n\"","temperature":0.8,"top_k":40,"top_p":0.9,"seed":7,"max_new_tokens":2}',
    ' { "ignore_eos" : true , "repetition_penalty":1.1e0, "min_p" : 0.05, "prompt" : "" , "max_new_tokens":1}',
    '{"prompt":"The history","max_new_tokens":3,"stop":["\\n","of"]}',
    '{"messages":[{"role":"system","content":"a"},{"role":"user","content":"b"},{"content":"","role":"assistant"}]}',
    '{"prompt":"a","max_new_tokens":9,"json_schema":{"properties":{"a":{"enum":[1,"b"]}}}}',
    '{"prompt":"a","max_new_tokens":9,"temperature":0.8,"regex":"[a-z]{1,5}"}',
]


BAD_REQUESTS = [
    ("hello", "one JSON object"),
    ("[]", "one JSON object"),
    ('{"prompt":"a"', "one JSON object"),
    ('{"prompt":"a"} x', "one JSON object"),
    ('{"prompt":"a",}', "one JSON object"),
    ('{"prompt":' + "[" * 100 + "]" * 100 + "}", "one JSON object"),
    ("{}", "either a prompt or messages"),
    ('{"prompt":"a","messages":[{"role":"user","content":"b"}]}', "either a prompt or messages"),
    ('{"prompt":5}', "prompt is not a string"),
    ('{"prompt":"a","frobnicate":1}', "does not know"),
    ('{"prompt":"a","max_new_tokens":"4"}', "max_new_tokens"),
    ('{"prompt":"a","max_new_tokens":-4}', "max_new_tokens"),
    ('{"prompt":"a","temperature":1e999}', "temperature"),
    ('{"prompt":"a","top_p":2}', "top-p"),
    ('{"prompt":"a","thinking":true}', "needs messages"),
    ('{"messages":[{"role":"user","content":"a"}],"thinking":"off"}', "neither true nor false"),
    ('{"prompt":"a","ignore_eos":"no"}', "ignore_eos is neither true nor false"),
    ('{"prompt":"a","json_schema":[]}', "json_schema is not an object"),
    ('{"prompt":"a","json_schema":{"not":{}}}', 'keyword "not"'),
    ('{"prompt":"a","regex":"(?=a)"}', "lookaround"),
    ('{"prompt":"a","regex":"a","regex":"a"}', "either a json_schema or a regex"),
    ('{"messages":[]}', "no messages"),
    ('{"messages":{}}', "not a list"),
    ('{"messages":["a"]}', "not a JSON object"),
    ('{"messages":[{"role":"king","content":"a"}]}', "role"),
    ('{"messages":[{"role":"user"}]}', "content"),
    (
        '{"messages":[{"role":"user","content":"a","reasoning_content":"b"}]}',
        'a message has a member that serve does not know, or has it twice: "reasoning_content"',
    ),
    ('{"messages":[{"role":"user","content":"a","content":"b"}]}', 'twice: "content"'),
    ('{"messages":[{"role":"user","content":"a","role":"user"}]}', 'twice: "role"'),
    ('{"prompt":"a","prompt":"b"}', 'twice: "prompt"'),
    ('{"messages":[{"role":"user","content":"a"}]}', "chat template"),
    ('{"prompt":"a","stop":[]}', "stop is empty"),
    ('{"prompt":"a","stop":[""]}', "a string of 0 bytes"),
    ('{"prompt":"a","stop":["b",5]}', "stop is not a string"),
    ('{"prompt":"a","stop":["1","2","3","4","5","6","7","8","9"]}', "more than 8"),
    ('{"prompt":"a","stop":["a"],"stop":["b"]}', 'twice: "stop"'),
    ('{"save":5}', "save is not a string"),
    ('{"save":""}', "save is not the path of a file"),
    (r'{"resume":"a\u0000b"}', "resume is not the path of a file"),
    ('{"save":"a","prompt":"b"}', "no other member"),
    ('{"save":"a","resume":"b"}', 'twice: "resume"'),
    ('{"save":"a","save":"b"}', 'twice: "save"'),
]
"""A line, and words of the answer to it."""


class Server:
    """A running `mobile-run serve`, or `program`'s."""

    def __init__(self, directory: Path, *arguments: str, program: Path | None = None) -> None:
        command = [str(program or bundle_runner(directory)), "serve", str(directory), *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.load = self.event()

    def write(self, line: str | bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write((line.encode() if isinstance(line, str) else line) + b"\n")
        self.process.stdin.flush()

    def event(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the runner ended"
        return event_of(line, "mobile-run serve")

    def rest(self) -> list[dict[str, Any]]:
        """Events up to the one that ends an answer."""
        events = [self.event()]
        while events[-1]["event"] not in ("done", "state", "error"):
            events.append(self.event())
        return events

    def ask(self, **request: Any) -> list[dict[str, Any]]:
        self.write(json.dumps(request))
        return self.rest()

    def end(self) -> int:
        """Ends its input; the exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(timeout=60)


@contextmanager
def serving(directory: Path, *arguments: str, program: Path | None = None) -> Iterator[Server]:
    server = Server(directory, *arguments, program=program)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()
        for pipe in (server.process.stdin, server.process.stdout):
            assert pipe is not None
            pipe.close()


def prompt_of(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What an answer says of its prompt; a long one has events before it."""
    return next(event for event in events if event["event"] == "prompt")
