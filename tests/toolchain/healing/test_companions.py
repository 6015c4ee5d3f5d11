"""A healed GGUF becomes a checkpoint directory that says what the file said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mobile_bundle.models import open_model
from mobile_bundle.tokenizer import compile_tokenizer
from support.builds import build
from support.gguf_files import wide_checkpoint, write_gguf

gguf = pytest.importorskip("gguf")
pytest.importorskip("torch")
tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

from mobile_bundle import heal  # noqa: E402
from mobile_bundle.healing.companions import write_companions  # noqa: E402

CHAT = "{% for message in messages %}{{ '<s>' + message['content'] + '</s>' }}{% endfor %}"


def byte_level(writer: gguf.GGUFWriter) -> None:
    """512 tokens: bytes, some pairs, two special ones at the end."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    pairs = [one + two for one in "etaoinshrdlu" for two in "etaoinshrdlucm"][: 512 - len(letters) - 2]
    tokens = [*letters, *pairs, "<s>", "</s>"]
    kinds = [gguf.TokenType.NORMAL] * (len(tokens) - 2) + [gguf.TokenType.CONTROL] * 2
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{pair[0]} {pair[1]}" for pair in pairs])
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT)


@pytest.mark.parametrize("kind", ["byte level", "SentencePiece"])
def test_the_files_mean_what_the_metadata_means(tmp_path: Path, kind: str) -> None:
    path, out = tmp_path / "model.gguf", tmp_path / "out"
    write_gguf(path, wide_checkpoint(tmp_path / "wide"), tokenizer=byte_level if kind == "byte level" else None)
    out.mkdir()
    with open_model(path) as model:
        write_companions(model, out, ())
        config = model.checkpoint.config
    expected, found = compile_tokenizer(path, config), compile_tokenizer(out, config)
    assert found.data == expected.data
    assert (found.bos, found.eos, found.chat_template) == (expected.bos, expected.eos, expected.chat_template)
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == expected.eos
    (out / "config.json").write_text(json.dumps(config))
    loaded = transformers.AutoTokenizer.from_pretrained(out)
    assert loaded.bos_token == "<s>"
    text = "the thin line 12 </s> end"
    ids = loaded(text)["input_ids"]
    assert ids[0] == loaded.bos_token_id
    assert loaded.eos_token_id in ids
    assert loaded.decode(ids, skip_special_tokens=True).split() == text.replace("</s>", "").split()
    assert len(loaded(text, "second")["input_ids"]) > len(ids)


def test_a_gguf_is_healed(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, wide_checkpoint(tmp_path / "wide"), tokenizer=byte_level)
    short = {"own_tokens": 1600, "sequence": 16, "batch": 4, "tokens": 320, "evaluations": 1}
    healed = heal(path, tmp_path / "healed", recipe="bitnet-row", **short)
    assert healed.lost == 0
    assert "license: apache-2.0" in (healed.path / "README.md").read_text()
    assert build(healed.path, tmp_path / "b.mbundle")["recipe"] == "exact"
    loaded = transformers.AutoModelForCausalLM.from_pretrained(healed.path)
    assert len(loaded.model.layers[0].self_attn.q_proj.weight[0].unique()) <= 3
