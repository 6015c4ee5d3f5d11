"""GGUF files that are damaged, hostile or of a kind that is not read: one line each, in bounded memory and time."""

from __future__ import annotations

import random
import re
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from mobile_bundle.errors import UserError
from mobile_bundle.models import open_model
from mobile_bundle.models.gguf import GgufFile, is_gguf, library
from mobile_bundle.tokenizer import compile_tokenizer
from support.gguf_files import Type, small_tokenizer, wide_checkpoint, write_gguf

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wide_checkpoint(tmp_path_factory.mktemp("checkpoint"), num_hidden_layers=1)


@pytest.fixture(scope="module")
def whole(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A good file."""
    path = tmp_path_factory.mktemp("whole") / "model.gguf"
    write_gguf(path, checkpoint, lambda name: Type.Q4_0)
    return path.read_bytes()


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def header(*entries: bytes, tensors: bytes = b"", tensor_count: int = 0, version: int = 3) -> bytes:
    """A file by hand. entries: metadata, each key, type and value."""
    return b"GGUF" + struct.pack("<IQQ", version, tensor_count, len(entries)) + b"".join(entries) + tensors


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, *sizes: int, kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


BROKEN = {
    "is not a GGUF file: it begins with": b"PK\x03\x04" + bytes(100),
    "is truncated inside its header": b"GGUF\x03",
    "is big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "is GGUF version 1; versions 2 and 3 are read": header(version=1),
    "claims 1152921504606846976 tensors, more than": header(tensor_count=1 << 60),
    "claims 9223372036854775808 metadata entries, more than": b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 63),
    "the key a is there twice": header(entry("a", 4, bytes(4)), entry("a", 4, bytes(4))),
    "a string of its header claims": header(text("x" * 2000)),
    "is truncated inside its header (": header(entry("a", 8, struct.pack("<Q", 1 << 27))),
    "a string of its header claims ": header(entry("a", 8, struct.pack("<Q", 1 << 62))),
    "claims 1152921504606846976 values of an array": header(entry("a", 9, struct.pack("<IQ", 0, 1 << 60))),
    "is truncated inside its header ": header(entry("a", 9, struct.pack("<IQ", 8, 1 << 20))),
    "holds a value of type 9": header(entry("a", 9, struct.pack("<IQ", 9, 1))),
    "holds a value of type 77": header(entry("a", 77, bytes(8))),
    "text that is not UTF-8": header(struct.pack("<Q", 2) + b"\xff\xfe" + bytes(100)),
    "the tensor t has 5 dimensions": header(tensors=tensor("t", 1, 1, 1, 1, 1), tensor_count=1),
    "the tensor t has 0 dimensions": header(tensors=tensor("t"), tensor_count=1),
    "the tensor t has the shape [0]": header(tensors=tensor("t", 0) + bytes(100), tensor_count=1),
    "is truncated: the tensor t ends at": header(tensors=tensor("t", 2, 1 << 63) + bytes(100), tensor_count=1),
    "is of GGML type 4000, which gguf": header(tensors=tensor("t", 32, kind=4000) + bytes(100), tensor_count=1),
    "t has rows of 33 values, Q4_0 blocks of 32": header(tensors=tensor("t", 33, kind=2) + bytes(100), tensor_count=1),
    "is truncated: the tensor t ends at byte": header(tensors=tensor("t", 64), tensor_count=1),
    "is truncated: the tensor t ends ": header(tensors=tensor("t", 1, offset=1 << 63) + bytes(99), tensor_count=1),
    "the tensor t is there twice": header(tensors=2 * tensor("t", 1) + bytes(100), tensor_count=2),
    "the tensor u lies over t": header(tensors=tensor("t", 8) + tensor("u", 8, offset=16) + bytes(200), tensor_count=2),
    "general.alignment is 3": header(entry("general.alignment", 4, struct.pack("<I", 3))),
    "general.alignment is 0": header(entry("general.alignment", 4, struct.pack("<I", 0))),
    "is part 2 of 3; join them": header(
        entry("split.no", 2, struct.pack("<H", 1)), entry("split.count", 2, struct.pack("<H", 3))
    ),
    "holds no language model but a part of one": header(entry("general.type", 8, text("mmproj"))),
    "unsupported architecture None": header(),
    "general.architecture in its metadata is 7, not a text": header(
        entry("general.architecture", 4, struct.pack("<I", 7))
    ),
    "unsupported architecture mamba; of GGUF: llama": header(entry("general.architecture", 8, text("mamba"))),
}


@pytest.mark.parametrize("words", BROKEN)
def test_broken_headers(tmp_path: Path, words: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(BROKEN[words])
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        open_model(path)
    assert str(path) in str(caught.value)


def test_cut_anywhere(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "model.gguf"
    ends = [*range(0, 2000, 61), *range(2000, len(whole), len(whole) // 40), len(whole) - 1]
    for end in ends:
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"truncated|ended while|not a GGUF"):
            open_model(path)


def test_flipped_bytes(tmp_path: Path, whole: bytes) -> None:
    """Whatever the bytes of the header say, the file opens or there is a UserError."""
    path = tmp_path / "model.gguf"
    path.write_bytes(whole)
    with GgufFile(path) as file:
        end = min(tensor.offset for tensor in file.tensors.values())
    generator = random.Random(1)
    opened = refused = 0
    for _ in range(600):
        data = bytearray(whole)
        for _ in range(generator.choice((1, 1, 2, 8))):
            place = generator.randrange(end)
            data[place] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)))
        path.write_bytes(data)
        try:
            with open_model(path) as model:
                compile_tokenizer(path, model.checkpoint.config)
            opened += 1
        except UserError:
            refused += 1
    assert opened > 20
    assert refused > 200


@pytest.mark.serial
def test_memory_is_bounded(tmp_path: Path) -> None:
    """A file of 64 GB (a hole) whose header claims as much as it may."""
    path = tmp_path / "model.gguf"
    path.write_bytes(header(entry("a", 9, struct.pack("<IQ", 8, 1 << 22))))
    with open(path, "r+b") as file:
        file.truncate(64 << 30)
    code = (
        "import sys; from mobile_bundle.models import open_model\n"
        "from mobile_bundle.errors import UserError\n"
        "try: open_model(sys.argv[1])\nexcept UserError as error: print(error)"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    process = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120, preexec_fn=limit
    )
    assert process.returncode == 0, process.stderr
    assert "unsupported architecture None" in process.stdout


Edit = Callable[[Any], None]
REFUSED: dict[str, tuple[str, Any]] = {
    "llama.expert_count is 8": ("add_expert_count", 8),
    "llama.attention.causal is False": ("add_causal_attention", False),
    "llama.logit_scale is 0.5": ("add_logit_scale", 0.5),
    "rotary scaling 'yarn' is not supported": ("add_rope_scaling_type", gguf.RopeScalingType.YARN),
    "its tokenizer removes white space": ("add_remove_extra_whitespaces", True),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_a_model_may_not_have(tmp_path: Path, checkpoint: Path, words: str) -> None:
    name, value = REFUSED[words]
    path = tmp_path / "model.gguf"
    write_gguf(path, checkpoint, edit=lambda writer: getattr(writer, name)(value))
    with pytest.raises(UserError, match=words), open_model(path) as model:
        compile_tokenizer(path, model.checkpoint.config)


def test_other_tensors_than_the_family_has(tmp_path: Path, checkpoint: Path) -> None:
    import numpy as np

    path = tmp_path / "model.gguf"
    for name, words in (
        ("blk.0.attn_sub_norm.weight", "a model with the tensor blk.0.attn_sub_norm.weight is not supported"),
        ("blk.0.attn_q_norm.weight", "LlamaForCausalLM with the tensor model.layers.0.self_attn.q_norm.weight"),
        ("blk.1.attn_norm.weight", "LlamaForCausalLM with the tensor model.layers.1.input_layernorm.weight"),
        ("blk.0.attn_q.bias", "has no tensor for model.layers.0.self_attn.k_proj.bias"),
    ):
        zeros = np.zeros(256, np.float32)
        write_gguf(path, checkpoint, edit=lambda writer, name=name, zeros=zeros: writer.add_tensor(name, zeros))
        with pytest.raises(UserError, match=words):
            open_model(path)


def test_other_shapes_than_the_metadata_has(tmp_path: Path, whole: bytes) -> None:
    key = text("llama.feed_forward_length") + struct.pack("<I", 4)
    at = whole.index(key) + len(key)
    path = tmp_path / "model.gguf"
    path.write_bytes(whole[:at] + struct.pack("<I", 768) + whole[at + 4 :])
    with pytest.raises(UserError, match=r"has the shape \[512, 256\], its metadata asks for \[768, 256\]"):
        open_model(path)


def test_weights_of_whole_numbers(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, checkpoint)
    data = path.read_bytes()
    key = text("blk.0.ffn_down.weight") + struct.pack("<IQQ", 2, 512, 256)
    at = data.index(key) + len(key)
    path.write_bytes(data[:at] + struct.pack("<I", Type.I8) + data[at + 4 :])
    with pytest.raises(UserError, match="weights of GGML type I8 cannot be read"):
        open_model(path)


def test_without_the_package(tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(whole)

    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(library.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"pip install '\.\[gguf\]' in a checkout"):
        open_model(path)


def test_what_is_taken_for_a_gguf(tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "blob").write_bytes(whole)
    assert is_gguf(tmp_path / "blob")
    assert is_gguf(tmp_path / "missing.gguf")
    assert not is_gguf(tmp_path)
    (tmp_path / "folder.gguf").mkdir()
    assert not is_gguf(tmp_path / "folder.gguf")
    with pytest.raises(UserError, match=r"missing.gguf is not there"):
        open_model(tmp_path / "missing.gguf")


@pytest.mark.parametrize("command", ["build", "eval", "estimate", "report"])
def test_commands_say_one_line(tmp_path: Path, whole: bytes, command: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.txt").write_text("a text " * 1000)
    words = {
        "build": ["build-mobile-bundle", path, "-o", tmp_path / "out.mbundle"],
        "eval": ["mobile-bundle", "eval", path, "--text", tmp_path / "text.txt"],
        "estimate": ["mobile-bundle", "estimate", path],
        "report": ["mobile-bundle", "report", tmp_path, "--against", path, "--text", tmp_path / "text.txt"],
    }[command]
    process = subprocess.run(
        [str(BIN / str(words[0])), *map(str, words[1:])], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert process.returncode == 1
    assert len(process.stderr.splitlines()) == 1
    assert "is truncated" in process.stderr
    assert not list(tmp_path.glob("out*"))


def test_the_tokenizer_and_the_model_belong_together(tmp_path: Path, checkpoint: Path) -> None:
    def more_tokens(writer: Any) -> None:
        small_tokenizer(writer)
        writer.kv_data[-1][gguf.Keys.Tokenizer.LIST].value.append("another")
        writer.kv_data[-1][gguf.Keys.Tokenizer.SCORES].value.append(-99.0)
        writer.kv_data[-1][gguf.Keys.Tokenizer.TOKEN_TYPE].value.append(gguf.TokenType.NORMAL)

    path = tmp_path / "model.gguf"
    write_gguf(path, checkpoint, tokenizer=more_tokens)
    process = subprocess.run(
        [str(BIN / "build-mobile-bundle"), str(path), "-o", str(tmp_path / "out.mbundle")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 1
    assert "the tokenizer has 513 tokens, the model only 512" in process.stderr
