"""The demo app on a device with Android: it imports the bundle, and answers as this machine does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mobile_bundle.container.manifest import read_manifest
from mobile_bundle.device.measuring.app import TOOLS, ask_app, install_app
from mobile_bundle.device.transport.places import DEFAULT_WORK
from mobile_bundle.device.transport.probe import probe
from mobile_bundle.device.transport.push import push_changed
from mobile_bundle.native.programs import bundle_runner
from mobile_bundle.pack.pack import pack_bundle

PROMPT = 'The history of the city\'s "old" centre'
TOKENS = 16


@pytest.fixture(scope="module")
def answer(request: pytest.FixtureRequest, reached: Any, bundle: Path, tmp_path_factory: Any) -> Iterator[dict]:
    """What the app wrote after it imported the bundle and was asked."""
    facts = probe(reached.device, DEFAULT_WORK)
    missing = [tool for tool in TOOLS if tool not in facts.tools]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} on {facts.label}")
    apk: Path = request.config.option.apk
    if not apk.exists():
        pytest.skip(f"{apk} is missing: make apk, or --apk FILE")
    download = tmp_path_factory.mktemp("app") / "device-test.mbundle.zip"
    pack_bundle(bundle, download, progress=lambda *_: None)
    remote = f"/data/local/tmp/{download.name}"
    push_changed(reached.device, {remote: download}, lambda *_: None)
    install_app(reached.device, apk)
    yield ask_app(reached.device, remote, PROMPT, TOKENS)
    reached.device.shell(f"rm -f {remote}")


def test_the_app_answers_as_this_machine_does(answer, bundle):
    assert answer["status"] == "done", answer.get("error")
    chat = ["--chat"] if read_manifest(bundle)["chat_template"] else []
    process = subprocess.run(
        [bundle_runner(bundle), "generate", bundle, *chat, "--prompt", PROMPT, "--max-new-tokens", str(TOKENS),
         "--json"],
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    tokens = [event for event in map(json.loads, process.stdout.splitlines()) if event["event"] == "token"]
    assert answer["text"] == "".join(event["text"] for event in tokens)


def test_the_app_tells_what_it_costs(answer):
    assert 0 < answer["tokens"] <= TOKENS
    assert answer["tokens_per_second"] > 0
    assert answer["peak_rss_bytes"] > answer["anon_bytes"] > 0


def test_it_is_asked_a_second_time_without_an_import(answer, reached):
    again = ask_app(reached.device, answer["bundle"], PROMPT, TOKENS)
    assert again["text"] == answer["text"]
    assert "import_seconds" not in again
