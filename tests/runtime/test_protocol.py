"""One protocol: every line that mobile-run and mobile-watch write, what C, Kotlin and the pages say of it, and the
schema."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from mobile_bundle.events.parse import events_schema, parse_event, read_output
from mobile_bundle.native.library import package_file
from mobile_bundle.native.programs import bundle_runner
from support.events import closed_schema, event_of, events_of
from support.paths import ROOT
from support.serve import BAD_REQUESTS, GOOD_REQUESTS, serving

DEFINITIONS = events_schema()["$defs"]
EVENTS = {name: definition for name, definition in DEFINITIONS.items() if "written_by" in definition}
WATCH = str(package_file("bin", "x86_64", "mobile-watch"))


def output_of(*command: str | Path, status: int = 0, given: str = "") -> str:
    done = subprocess.run([str(c) for c in command], input=given, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_every_command_writes_what_the_schema_says(bundle, tmp_path):
    """And together they write every event that there is, with every field."""
    directory, cache = bundle("bitnet-1.6bit"), tmp_path / "cache"
    runner, plain = bundle_runner(directory), bundle("affine-4bit")
    seen: list[dict[str, Any]] = []

    def take(command: str, text: str) -> None:
        events = events_of(text, command)
        assert events
        assert len(list(read_output(text.encode()))) == len(events)
        seen.extend(events)

    cache.mkdir()
    run = [runner, "install", directory, "--cache", cache, "--json"]
    take("mobile-run install", output_of(*run))
    take("mobile-run install", output_of(*run))  # nothing to do any more
    generate = [runner, "generate", directory, "--json", "--prompt", 'Ein "é" and a \\ \t of 🎉', "--ignore-eos"]
    take("mobile-run generate", output_of(*generate, "--max-new-tokens", "30", "--cache", cache))
    take("mobile-run bench", output_of(runner, "bench", directory, "-n", "4", "-r", "3", "--json", "--cache", cache))
    take("mobile-run verify", output_of(runner, "verify", directory, "--json", "--cache", cache))
    for command in ("generate", "bench", "serve", "install", "verify"):
        more = {"generate": ["--prompt", "a"], "bench": ["-p", "2"]}.get(command, [])
        missing = output_of(runner, command, tmp_path / 'no "such\\', *more, "--json", status=1)
        take(f"mobile-run {command}", missing)
    with serving(plain, "--lookup", "4") as server:
        answer = [server.load, *server.ask(prompt="The history " * 60, max_new_tokens=3), *server.ask(frobnicate=1)]
        answer += [*server.ask(save=str(tmp_path / "a.state")), *server.ask(resume=str(tmp_path / "a.state"))]
    take("mobile-run serve", "\n".join(map(json.dumps, answer)))
    take("mobile-watch", output_of(WATCH, "--interval", "20", "--drop-caches", "--", "sleep", "0.8"))
    take("mobile-watch", output_of(WATCH, "sh", "-c", "kill -9 $$"))
    take("mobile-watch", output_of(WATCH, "no-such-program"))
    watched = subprocess.Popen([WATCH, "sleep", "60"], stdout=subprocess.PIPE, text=True)
    assert watched.stdout is not None
    first = watched.stdout.readline()
    watched.terminate()
    take("mobile-watch", first + watched.stdout.read())
    watched.wait(timeout=30)
    watched.stdout.close()
    take("mobile-watch hog", output_of(WATCH, "hog", "--anon-bytes", "1000000"))

    written = {name: {field for event in seen if event["event"] == name for field in event} for name in EVENTS}
    absent = {"psi_some_avg10", "psi_full_avg10"} if not Path("/proc/pressure/memory").exists() else set()
    assert written == {name: set(definition["properties"]) - absent for name, definition in EVENTS.items()}


def test_a_line_longer_than_its_buffer_is_whole(bundle, tmp_path):
    """A path of 3,000 bytes, with what must be escaped on every part of it."""
    directory = bundle("affine-4bit")
    here = tmp_path
    while len(os.fsencode(here)) < 3000:
        here /= '"ü' * 60
    here.mkdir(parents=True)
    link = here / "b"
    link.symlink_to(directory)
    (event,) = events_of(output_of(bundle_runner(directory), "verify", link, "--json"))
    assert event == {"event": "verified", "bundle": str(link)}


def c_fields() -> dict[str, list[str]]:
    """{event or object: its fields} as the C files write them, in order."""
    found: dict[str, list[str]] = {}
    for path in ("runner/events.c", "watch/events.c"):
        text = (ROOT / "runtime" / path).read_text("utf-8")
        place: list[str] = []
        for match in re.finditer(
            r"json_line_(begin|end|open|close|integer|numbers|number|boolean|text)\(&?l(?:, \"(\w+)\")?|"
            r"write_(string|memory)\(&?l(?:, \"(\w+)\")?",
            text,
        ):
            what, name = match[1] or match[3], match[2] or match[4]
            match what:
                case "begin":
                    place = [name]
                    found.setdefault(name, [])
                case "open":
                    if place:
                        found[place[-1]].append(name)
                    place.append(name)
                    found.setdefault(name, [])
                case "close" | "end":
                    place.pop()
                case "memory":
                    if place:
                        found[place[-1]].append("memory")
                case _ if name is not None:
                    found[place[-1]].append(name)
    return found


def test_the_c_files_write_exactly_what_the_schema_names():
    """Nothing is left out or added, read from the sources: also what no run here happens to write."""
    written = c_fields()
    assert set(written) == {*EVENTS, "memory", "predicted"}
    for name, fields in written.items():
        properties = [field for field in DEFINITIONS[name]["properties"] if field != "event"]
        assert sorted(set(fields)) == sorted(properties), name
    for path in (ROOT / "runtime").rglob("*.c*"):
        if path.name not in ("json_line.c", "events.c") and path.is_file():
            assert '\\"event\\"' not in path.read_text("utf-8"), f"{path} writes an event by hand"
            assert "json_line_begin" not in path.read_text("utf-8"), f"{path}: events are written in events.c"


def member_rows(title: str) -> list[tuple[str, ...]]:
    """The cells of the table rows below that heading of SERVE.md, without head and ruler."""
    text = (ROOT / "docs/SERVE.md").read_text("utf-8")
    (part,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in part.splitlines() if line[:1] == "|"]
    return [row for row in rows if row[0].startswith(("`", "**"))]


def type_of(described: dict[str, Any]) -> str:
    """How SERVE.md says it."""
    if "$ref" in described:
        return "object"
    if "enum" in described:
        return "string"
    kind = described["type"]
    return f"list of {type_of(described['items'])}s" if kind == "array" else kind


def documented() -> dict[str, dict[str, str]]:
    """{event or object: {field: type}} as SERVE.md's tables have it."""
    tables: dict[str, dict[str, str]] = {}
    for first, second, third, *_ in member_rows("Events"):
        if first.startswith("**"):
            fields = tables.setdefault(first.strip("*`"), {})
        else:
            fields[first.strip("`")] = second
            assert third
    return tables


def test_serve_s_page_lists_the_events_of_the_schema():
    served = {name for name, definition in EVENTS.items() if "mobile-run serve" in definition["written_by"]}
    expected = {
        name: {field: type_of(d) for field, d in DEFINITIONS[name]["properties"].items() if field != "event"}
        for name in [*served, "memory", "predicted"]
    }
    assert documented() == expected


def test_serve_s_page_lists_the_members_of_a_request():
    page = {first.strip("`"): second for first, second, *_ in member_rows("Requests")}
    assert page == {name: type_of(described) for name, described in DEFINITIONS["request"]["properties"].items()}


def test_the_c_file_takes_exactly_the_members_of_the_schema():
    text = (ROOT / "runtime/runner/request.c").read_text("utf-8")
    (options,) = re.findall(r"sampling\[\] = \{(.*?)\}", text, re.DOTALL)
    members = {*re.findall(r'json_is\(name, "(\w+)"\)', text), *re.findall(r'"(\w+)"', options)}
    assert members == set(DEFINITIONS["request"]["properties"])
    (message,) = re.findall(r"static mb_status take_message\(.*?^\}", text, re.DOTALL | re.MULTILINE)
    assert set(re.findall(r'json_is\(&name, "(\w+)"\)', message)) == set(DEFINITIONS["message"]["properties"])
    roles = set(re.findall(r'json_is\(&value, "(\w+)"\)', message))
    assert roles | {"assistant"} == set(DEFINITIONS["message"]["properties"]["role"]["enum"])


def request_is_valid(line: str) -> bool:
    try:
        request = json.loads(line)
    except ValueError:
        return False
    return Draft202012Validator({"$defs": DEFINITIONS, "$ref": "#/$defs/request"}).is_valid(request)


def test_serve_and_the_schema_agree_on_requests(bundle):
    """One value of a wrong type for every member, and one of a right type, as a program that runs sees them."""
    right = {"string": '"a"', "integer": "3", "number": "0.5", "boolean": "true", "object": "{}"}
    wrong = {"string": "5", "integer": '"3"', "number": '"0.5"', "boolean": '"true"', "array": '"a"', "object": "[]"}
    of_messages = ("thinking", "full_context")
    with serving(bundle("affine-4bit")) as server:
        for name, described in DEFINITIONS["request"]["properties"].items():
            start = '{"max_new_tokens":1,' if name != "max_new_tokens" else "{"
            start = "{" if name in ("save", "resume") else start
            start += '"prompt":"a",' if name not in ("prompt", "messages", *of_messages, "save", "resume") else ""
            start += '"messages":[{"role":"user","content":"b"}],' if name in of_messages else ""
            bad = f'{start}"{name}":{wrong[described["type"]]}}}'
            assert not request_is_valid(bad)
            server.write(bad)
            (refused,) = server.rest()
            assert (refused["event"], refused["kind"]) == ("error", "argument"), bad
            assert name in refused["message"]
            if described["type"] in right and name not in (*of_messages, "save", "resume"):  # it has no chat template
                good = f'{start}"{name}":{right[described["type"]]}}}'
                assert request_is_valid(good)
                server.write(good)
                assert server.rest()[-1]["event"] == "done", good


@pytest.mark.parametrize("line", GOOD_REQUESTS)
def test_good_requests_are_of_the_schema(line):
    assert request_is_valid(line)


@pytest.mark.parametrize("line", [line for line, words in BAD_REQUESTS if words in ("does not know", "not a list")])
def test_bad_requests_are_not(line):
    assert not request_is_valid(line)


KOTLIN = ROOT / "android_demo/lm/src/main/kotlin/dev/mobilebundle/lm"
GETTERS = {"Long": "integer", "Int": "integer", "Double": "number", "String": "string", "JSONArray": "array",
           "JSONObject": "object"}  # fmt: skip
READERS = {
    ("RunnerEvent.kt", "loadedModel"): "load",
    ("RunnerEvent.kt", "started"): "prompt",
    ("RunnerEvent.kt", "stats"): "done",
    ("RunnerEvent.kt", "memory"): "memory",
    ("RunnerEvent.kt", "error"): "error",
    ("Benchmark.kt", "result"): "bench",
}
"""The functions that read an event's object, and which."""


def check_reads(text: str, name: str, reads: re.Pattern[str]) -> int:
    """Every read of a field must be of the schema's type, and `get`, which throws, of a required one."""
    definition, count = DEFINITIONS[name], 0
    for how, kind, field in reads.findall(text):
        described = definition["properties"][field]
        actual = "object" if "$ref" in described else described.get("type", "string")
        assert GETTERS[kind] == actual, f"{name}.{field} is read as {kind}, it is {actual}"
        assert how == "opt" or field in definition["required"], f"{name}.{field} need not be there"
        count += 1
    return count


def test_the_app_reads_what_the_schema_says():
    reads = re.compile(r"\bjson\.(get|opt)([A-Z]\w+)\(\"(\w+)\"")
    total = 0
    for (file, function), name in READERS.items():
        text = (KOTLIN / file).read_text("utf-8")
        (body,) = re.findall(rf"fun {function}\(json: JSONObject\).*?(?=^ +(?:private )?fun |\Z)", text, re.S | re.M)
        total += check_reads(body, name, reads)
        predicted = re.compile(r"\bpredicted\.(get|opt)([A-Z]\w+)\(\"(\w+)\"")
        total += check_reads(body, "predicted", predicted)
    text = (KOTLIN / "RunnerEvent.kt").read_text("utf-8")
    for name, call in re.findall(r'^ +"(\w+)" -> (.*)$', text, re.MULTILINE):
        if name in EVENTS:
            total += check_reads(call, name, reads)
    # all that is read was looked at: no other file touches an event's object
    everything = sum(
        len(re.findall(r"\b(?:json|predicted)\.(?:get|opt)[A-Z]\w+\(\"(?!event\")", (KOTLIN / file).read_text("utf-8")))
        for file in {file for file, _ in READERS}
    )
    assert total == everything > 20
    named = set(re.findall(r'^ +"(\w+)" -> [A-Z]\w+\(', text, re.MULTILINE))
    assert named <= {name for name, d in EVENTS.items() if "mobile-run serve" in d["written_by"]}


def test_the_app_asks_what_the_schema_says():
    text = (KOTLIN / "RequestJson.kt").read_text("utf-8")
    request, message = text.split("private fun Message.toJson()")
    asked = set(re.findall(r'put\("(\w+)"', request))
    assert asked <= set(DEFINITIONS["request"]["properties"])
    assert {"prompt", "messages", "thinking"} <= asked
    assert set(re.findall(r'put\("(\w+)"', message)) == set(DEFINITIONS["message"]["properties"])


def test_reasons_and_kinds_of_the_app_are_those_of_the_runner():
    """The words that clients compare with: the app's are written by C, and named on the page of the schema."""
    text = (KOTLIN / "RunnerEvent.kt").read_text("utf-8")
    words = {
        "done/reason": set(re.findall(r'"(\w+)" -> FinishReason', text)),
        "error/kind": set(re.findall(r'^ +"(\w+)"(?:, "\w+")? -> ModelError', text, re.MULTILINE)),
    }
    for where, known in words.items():
        name, field = where.split("/")
        said = set(re.findall(r"`(\w+)`", DEFINITIONS[name]["properties"][field]["description"]))
        assert known
        assert known <= said
    kinds = set(re.findall(r'return "(\w+)";', (ROOT / "runtime/runner/events.c").read_text("utf-8")))
    assert kinds == set(re.findall(r"`(\w+)`", DEFINITIONS["error"]["properties"]["kind"]["description"]))


def test_a_closed_schema_refuses_what_the_open_one_passes():
    """The tests' own ruler: an unknown field is seen."""
    line = '{"event":"token","id":1,"text":"a","more":1}'
    assert parse_event(line) is not None
    assert "additionalProperties" not in DEFINITIONS["token"]
    assert closed_schema()["$defs"]["token"]["additionalProperties"] is False
    with pytest.raises(Exception, match="more"):
        event_of(line)
