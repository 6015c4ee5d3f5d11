"""Puts what the Android app is built from into a folder: the runner of each ABI (jniLibs), and bundles that its tests
import: the example model as it is packed by default, with its weights as they are computed with, with a chat
template, and with one that can have the model think first."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from mobile_bundle.native.programs import runner_paths
from mobile_bundle.pack import pack_bundle
from mobile_bundle.pipeline.build import build_bundle
from mobile_bundle.pipeline.request import BuildRequest

EXAMPLE = Path(__file__).parent.parent / "examples/models/wiki-6m"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|endoftext|>{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|endoftext|>assistant:{% endif %}"
)
THINKING_TEMPLATE = CHAT_TEMPLATE + "{% if enable_thinking %} Let me think.{% endif %}"


def put_runners(target: Path) -> None:
    """Android's installer unpacks only files that are named as libraries are."""
    for abi, runner in runner_paths().items():
        library = target / abi / "libmobile_run.so"
        library.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(runner, library)
        library.chmod(0o755)


def _with_template(folder: Path, template: str) -> Path:
    """The example model with a chat template."""
    shutil.copytree(EXAMPLE, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    return folder


def put_bundles(target: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        chatty = _with_template(work / "wiki-6m-chat", CHAT_TEMPLATE)
        thinking = _with_template(work / "wiki-6m-thinking", THINKING_TEMPLATE)
        for model, packed, entropy in (
            (EXAMPLE, "wiki-6m", True),
            (EXAMPLE, "wiki-6m-packed", False),
            (chatty, "wiki-6m-chat", True),
            (thinking, "wiki-6m-thinking", True),
        ):
            bundle = work / f"{model.name}.mbundle"
            if not bundle.exists():
                build_bundle(BuildRequest(model, bundle, formats=()))
            pack_bundle(bundle, target / f"{packed}.mbundle.zip", entropy=entropy, progress=lambda *_: None)


if __name__ == "__main__":
    put_runners(Path(sys.argv[1]) / "jniLibs")
    put_bundles(Path(sys.argv[1]))
