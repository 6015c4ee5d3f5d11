"""What a build had to give up, or chose, is printed by it and by inspect, and is in the JSON of both."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mobile_bundle.cli.build import main as build_command
from mobile_bundle.cli.main import main as bundle_command
from mobile_bundle.models import open_model
from mobile_bundle.native.tokenizer import Tokenizer
from mobile_bundle.tokenizer import compile_tokenizer
from support.builds import notes_of
from support.paths import EXAMPLE

pytest.importorskip("torch")
import torch
from safetensors.torch import load_file, save_file

BIN = Path(sys.executable).parent
Change = Callable[[Path], object]
NO_CHAT = "the model has no chat template"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the example checkpoint, which has no chat template."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "m"))


@pytest.fixture
def build(capfd: pytest.CaptureFixture[str]) -> Callable[[Path], dict[str, Any]]:
    """build(model): the manifest. Its notes were printed, once each, by the build and are by inspect."""

    def make(model: Path) -> dict[str, Any]:
        out = model.with_suffix(".mbundle")
        assert build_command([str(model), "-o", str(out), "--recipe", "affine-4bit"]) == 0
        printed = "".join(capfd.readouterr())
        manifest: dict[str, Any] = json.loads((out / "manifest.json").read_text("utf-8"))
        assert bundle_command(["inspect", str(out)]) == 0
        shown = capfd.readouterr().out
        for note in manifest["notes"]:
            assert printed.count(f"note: {note}\n") == shown.count(f"note: {note}\n") == 1
            assert "None" not in note
        assert bundle_command(["inspect", str(out), "--json"]) == 0
        assert json.loads(capfd.readouterr().out)["notes"] == manifest["notes"]
        return manifest

    return make


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text("utf-8")) if path.exists() else {}
    change(value)
    path.write_text(json.dumps(value), "utf-8")


def chat(template: str) -> Change:
    return lambda model: edit(model / "tokenizer_config.json", lambda config: config.update(chat_template=template))


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def apply(model: Path) -> None:
        tensors = load_file(model / "model.safetensors")
        change(tensors)
        save_file(tensors, model / "model.safetensors")

    return apply


def zero(*parts: str) -> Change:
    return weights(lambda tensors: [v.zero_() for name, v in tensors.items() if any(part in name for part in parts)])


def added(*tokens: str, special: bool = True) -> Change:
    """More tokens than the model has rows."""

    def change(description: dict[str, Any]) -> None:
        for number, token in enumerate(tokens):
            entry = {"id": 4096 + number, "content": token, "special": special, "normalized": False}
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
            description["added_tokens"].append(entry | flags)

    return lambda model: edit(model / "tokenizer.json", change)


PLAIN = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
END_TOKENS = [*range(10, 19)]

GIVEN_UP: dict[str, tuple[Change, list[str]]] = {
    "no chat template": (lambda model: None, [NO_CHAT]),
    "a template that is compiled": (chat(PLAIN), []),
    "a template that cannot be": (
        chat("{{ messages | map(attribute='content') }}"),
        ["the chat template cannot be compiled"],
    ),
    "no system messages": (chat(NO_SYSTEM), ["without system messages"]),
    "white space": (chat(PLAIN.replace("m.content", "m.content.strip()")), []),
    "zero matrices": (
        zero("layers.3.mlp.up", "layers.4.self_attn.q"),
        [
            NO_CHAT,
            "2 tensors are zero throughout, as in a checkpoint that is not whole: model.layers.3.mlp.up_proj.weight",
        ],
    ),
    "a zero norm": (zero("model.norm"), [NO_CHAT, "1 tensors are zero throughout, .*: model.norm.weight"]),
    "zero but for the last value": (
        weights(lambda tensors: tensors["model.layers.3.mlp.up_proj.weight"].mul_(0)[-1, -1:].fill_(1)),
        [NO_CHAT],
    ),
    "unused tensors": (
        weights(lambda tensors: tensors.update({"score.weight": torch.ones(2, 256)})),
        ["1 tensors of the checkpoint are not part of LlamaForCausalLM and not used: score.weight", NO_CHAT],
    ),
    "a head of its own": (
        weights(lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"] + 1})),
        ["ties the output head to the embedding, but lm_head.weight holds other values: it is used", NO_CHAT],
    ),
    "which file": (
        lambda model: shutil.copyfile(model / "model.safetensors", model / "model-00001-of-00001.safetensors"),
        ["the weights are model.safetensors, .* not used: model-00001-of-00001.safetensors", NO_CHAT],
    ),
    "added tokens without rows": (
        added("[PAD]", "<|im_start|>"),
        [r"2 added tokens are left out, the model has only 4096 rows: \[PAD\], <\|im_start\|>", NO_CHAT],
    ),
    "many added tokens without rows": (
        added(*(f"[extra {number}]" for number in range(9))),
        [r"9 added tokens are left out, .*: \[extra 0\].* \[extra 4\] \.\.\.", NO_CHAT],
    ),
    "a template with such tokens": (
        lambda model: (added("[assistant]")(model), chat(PLAIN)(model)),
        [r"1 added tokens are left out", r"the model has no row for the token \[assistant\] in it"],
    ),
    "nine end tokens": (
        lambda model: edit(model / "generation_config.json", lambda config: config.update(eos_token_id=END_TOKENS)),
        ["the model has 9 end tokens, the runtime holds 8: 18 do not end a text", NO_CHAT],
    ),
}


@pytest.mark.parametrize("name", GIVEN_UP)
def test_it_is_printed(build: Callable[[Path], dict[str, Any]], model: Path, name: str) -> None:
    change, expected = GIVEN_UP[name]
    change(model)
    notes = notes_of(build(model))
    assert len(notes) == len(expected)
    for note, words in zip(notes, expected, strict=True):
        assert re.search(words, note)


@pytest.mark.slow
def test_json_is_the_manifest_and_notes_go_to_standard_error(model: Path) -> None:
    out = model.with_suffix(".mbundle")
    arguments = [str(BIN / "build-mobile-bundle"), str(model), "-o", str(out), "--json"]
    process = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert notes_of(json.loads(process.stdout)) == [NO_CHAT]
    assert process.stderr.endswith(f"note: {NO_CHAT}\n")


def test_a_token_that_ends_a_chat_is_among_eight(build: Callable[[Path], dict[str, Any]], model: Path) -> None:
    """The template's own end of an answer is kept, whatever else ends a text."""
    edit(model / "generation_config.json", lambda config: config.update(eos_token_id=END_TOKENS))
    edit(
        model / "tokenizer.json",
        lambda description: description["added_tokens"].append(
            {"id": 20, "content": description_token(description, 20), "special": True, "normalized": False}
        ),
    )
    end = description_token(json.loads((model / "tokenizer.json").read_text("utf-8")), 20)
    ended = PLAIN.replace("{% endfor %}", "{% if m.role == 'assistant' %}" + end + "{% endif %}{% endfor %}")
    chat(ended)(model)
    manifest = build(model)
    assert manifest["model"]["eos"] == [*END_TOKENS[:7], 20]
    assert any("10 end tokens, the runtime holds 8: 17, 18 do not end" in note for note in manifest["notes"])


def description_token(description: dict[str, Any], number: int) -> str:
    """The text of a token of a tokenizer.json."""
    return next(text for text, value in description["model"]["vocab"].items() if value == number)


def test_text_with_a_left_out_token_is_plain_text(model: Path, tmp_path: Path) -> None:
    """The ids are those of the tokenizer without it."""
    text = "The city [PAD] of <|im_start|>"
    with open_model(model) as opened:
        before = compile_tokenizer(model, opened.checkpoint.config)
        added("[PAD]", "<|im_start|>")(model)
        after = compile_tokenizer(model, opened.checkpoint.config)
    assert after.data == before.data
    assert after.vocabulary == before.vocabulary <= 4096
    (tmp_path / "tokenizer.bin").write_bytes(after.data)
    tokenizer = Tokenizer(tmp_path / "tokenizer.bin")
    try:
        assert max(tokenizer.encode(text)) < 4096
    finally:
        tokenizer.close()


def test_a_vocabulary_that_is_larger_than_the_model_is_refused(model: Path) -> None:
    """Its own tokens, not added ones: without them text would be cut into other tokens."""
    edit(model / "tokenizer.json", lambda description: description["model"]["vocab"].update({"zz zz": 4096}))
    arguments = [str(BIN / "build-mobile-bundle"), str(model), "-o", str(model.with_suffix(".mbundle"))]
    process = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 1
    assert "the tokenizer has 4097 tokens, the model only 4096: they do not belong together" in process.stderr
