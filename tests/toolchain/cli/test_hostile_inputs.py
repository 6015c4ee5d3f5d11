"""Whatever is given to a command: it works, or says in one line what is wrong, and leaves nothing half-written."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mobile_bundle.cli.build import main as build
from mobile_bundle.cli.common import run_command
from mobile_bundle.cli.main import main
from mobile_bundle.container.manifest import read_manifest
from mobile_bundle.device.transport.places import folder_name
from mobile_bundle.errors import MOST_CHARACTERS, UserError
from mobile_bundle.files.inputs import parse_json, read_bytes
from mobile_bundle.models import open_model
from mobile_bundle.planning.recipe_file import read_recipe_file
from mobile_bundle.tokenizer import compile_tokenizer
from mobile_bundle.tokenizer.binary import MAX_PROBES, _place, pair_hash
from support.paths import EXAMPLE
from support.small_checkpoint import CONFIG, QUERY, tensors, tokenizer, write_checkpoint

BIN = Path(sys.executable).parent
DEEP = "[" * 200_000
NAN = float("nan")


def ends_well(capsys: Any, command: Callable[[list[str]], int], *arguments: object) -> str:
    """Runs a command, in this process; its last line on standard error. It may succeed, fail or refuse its arguments,
    in a line each, but for progress."""
    try:
        status = command(list(map(str, arguments)))
    except SystemExit as end:
        status = int(str(end.code))
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if not line.endswith(" %") and not line.startswith("note: ")]
    lines = [line for line in lines if "with it SmolLM2-135M" not in line]  # what the recipe costs
    assert status in (0, 1, 2)
    assert "internal error" not in said.err
    assert "\x1b" not in said.out + said.err
    assert len(lines) == (status == 1) or status == 2
    assert all(len(line) <= MOST_CHARACTERS + 100 for line in lines)
    said.err.encode()
    return lines[-1] if lines else ""


# --- checkpoints ------------------------------------------------------------------------------------------------------


def post_processor(number: Any) -> dict[str, Any]:
    single = [{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}]
    template = {"type": "TemplateProcessing", "single": single, "special_tokens": {"x": {"ids": [number]}}}
    return tokenizer(post_processor=template)


def with_query(value: float, place: Any = (0, 5)) -> dict[str, np.ndarray]:
    made = tensors()
    made[QUERY][place] = value
    return made


def chat(template: Any) -> dict[str, Any]:
    return {"files": {"tokenizer_config.json": {"chat_template": template}}}


def tokens(description: Any) -> dict[str, Any]:
    return {"files": {"tokenizer.json": description}}


SURROGATE = b'{"chat_template": "\\ud800{{ messages }}"}'
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "rms_norm_eps 1e39": {"config": {"rms_norm_eps": 1e39}},
    "rms_norm_eps 10**400": {"config": {"rms_norm_eps": 10**400}},
    "rope factor 10**400": {"config": {"rope_scaling": {"rope_type": "linear", "factor": 10**400}}},
    "rope factor 1e300": {"config": {"rope_scaling": {"rope_type": "linear", "factor": 1e300}}},
    "rope theta true": {"config": {"rope_theta": True}},
    "layers NaN": {"config": {"num_hidden_layers": NAN}},
    "config nested": {"files": {"config.json": DEEP}},
    "config empty": {"files": {"config.json": ""}},
    "config not UTF-8": {"files": {"config.json": b"\xff{}"}},
    "token id 260.5": tokens(tokenizer({"zz": 260.5})),
    "token id 259.0": tokens(tokenizer({"zz": 259.0})),
    "token id true": tokens(tokenizer({"zz": True})),
    "token id -1": tokens(tokenizer({"zz": -1})),
    "token id 2**40": tokens(tokenizer({"zz": 1 << 40})),
    "token id Infinity": tokens(tokenizer({"zz": float("inf")})),
    "token id a list": tokens(tokenizer({"zz": []})),
    "token ids twice": tokens(tokenizer({"zz": 5})),
    "token id in a hole": tokens(tokenizer({"zz": 300})),
    "merges of unknown tokens": tokens(tokenizer({}, [["a", "nothing"]])),
    "merges of three tokens": tokens(tokenizer({}, [["a", "b", "c"]])),
    "merges of numbers": tokens(tokenizer({}, [[1, 2]])),
    "merges half text": tokens(tokenizer({}, ["a b", 5])),
    "merges an object": tokens(tokenizer() | {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": {"a": "b"}}}),
    "model missing": tokens({"version": "1.0"}),
    "model a list": tokens(tokenizer() | {"model": []}),
    "normalizer a number": tokens(tokenizer(normalizer=5)),
    "normalizers a number": tokens(tokenizer(normalizer={"type": "Sequence", "normalizers": 5})),
    "pre-tokenizer text": tokens(tokenizer(pre_tokenizer="ByteLevel")),
    "decoder a list": tokens(tokenizer(decoder=[1])),
    "added tokens a number": tokens(tokenizer(added_tokens=7)),
    "added token without id": tokens(tokenizer(added_tokens=[{"content": "a"}])),
    "added token id 1.5": tokens(tokenizer(added_tokens=[{"id": 1.5, "content": "a"}])),
    "added token a number": tokens(tokenizer(added_tokens=[5])),
    "post-processor id 2**40": tokens(post_processor(1 << 40)),
    "post-processor id Infinity": tokens(post_processor(float("inf"))),
    "post-processor id 1.5": tokens(post_processor(1.5)),
    "tokenizer nested": tokens(DEEP),
    "tokenizer empty": tokens(b""),
    "tokenizer_config nested": {"files": {"tokenizer_config.json": '{"a":' * 200_000}},
    "tokenizer_config a list": {"files": {"tokenizer_config.json": []}},
    "special_tokens_map nested": {"files": {"special_tokens_map.json": DEEP}},
    "added_tokens no numbers": {"files": {"added_tokens.json": {"a": "b"}}},
    "chat_template a list of strings": chat(["a"]),
    "chat_template a number": chat(5),
    "chat_template.json no JSON": {"files": {"chat_template.json": "{bad"}},
    "chat_template.jinja no UTF-8": {"files": {"chat_template.jinja": b"\xff{{}}"}},
    "chat template with half a surrogate pair": {"files": {"tokenizer_config.json": SURROGATE}},
    "chat template that raises half a surrogate pair": chat("{{ raise_exception('\\ud800') }}"),
    "generation_config NaN": {"files": {"generation_config.json": {"temperature": NAN}}},
    "generation_config true": {"files": {"generation_config.json": {"eos_token_id": True, "bos_token_id": [1.5]}}},
    "tensor name with half a surrogate pair": {
        "header": lambda h: h | {"\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    },
    "tensor of many dimensions": {
        "header": lambda h: h | {"a": {"dtype": "F32", "shape": [10**200] * 9000, "data_offsets": [0, 4]}}
    },
    "header nested": {"header": lambda h: h | {"a": json.loads("[" * 90 + "]" * 90)}},
    "float32 weight beyond bfloat16": {"weights": with_query(3.4028235e38)},
    "float32 weight NaN": {"weights": with_query(NAN)},
    "float32 weights that vanish": {"weights": with_query(2e-40, slice(None))},
}


BUILDS = [(name, "raw") for name in CHECKPOINTS] + [(name, "affine-4bit") for name in CHECKPOINTS if "weight" in name]


@pytest.mark.parametrize(("name", "recipe"), BUILDS)
def test_checkpoints(name: str, recipe: str, tmp_path: Path, capsys: Any) -> None:
    model = write_checkpoint(tmp_path / "model", **CHECKPOINTS[name])
    out = tmp_path / "out.mbundle"
    line = ends_well(capsys, build, model, "-o", out, "--recipe", recipe, "--jobs", 1)
    assert out.is_dir() == (not line)
    if out.is_dir():
        assert main(["verify", str(out)]) == 0
        assert all(np.isfinite(t["relative_error"]) for t in json.loads((out / "manifest.json").read_text())["tensors"])
    assert {path.name for path in tmp_path.iterdir()} <= {"model", "out.mbundle", "out.mbundle.parts"}


@pytest.mark.parametrize("name", [b"\xff", b"a\nb", b"quo'te\" \\", b"--help", b" ", "\u202eabc".encode(), b"\x1b[31m"])
def test_names_of_checkpoints_and_bundles(name: bytes, tmp_path: Path, capsys: Any) -> None:
    """They are built, and every command takes them."""
    folder = os.fsencode(tmp_path) + b"/"
    model = write_checkpoint(folder + name)
    out = os.fsdecode(folder + name + b".mbundle")
    assert ends_well(capsys, build, model, "-o", out, "--recipe", "raw", "--jobs", 1) == ""
    text = tmp_path / "text"
    text.write_text("The quick brown fox. " * 40)
    page = tmp_path / "page.html"
    for arguments in (
        ("inspect", out),
        ("inspect", "--json", out),
        ("verify", out),
        ("pack", out, "-o", os.fsdecode(folder + name + b".mbundle.zip")),
        ("bench", out, "-p", 4, "-n", 2, "-r", 1),
        ("report", out, "--against", model, "--text", text, "--context", 32, "--windows", 2, "-o", page),
    ):
        assert ends_well(capsys, main, *arguments) == ""
    assert "\x1b" not in page.read_text("utf-8")


def test_a_name_that_looks_like_an_option(bundle: Callable[..., Path], tmp_path: Path) -> None:
    """`run` becomes the runner, which must not take the name for one of its options."""
    shutil.copytree(bundle("affine-4bit"), tmp_path / "--json.mbundle")
    command = [BIN / "mobile-bundle", "run", "./--json.mbundle", "--prompt", "The", "--max-new-tokens", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


# --- floods -----------------------------------------------------------------------------------------------------------


def test_merges_of_one_hash(tmp_path: Path) -> None:
    """300 merges whose pairs have one 32-bit hash: refused, where the table grew until memory was out."""
    inverse = np.uint64(pow(0x85EBCA77, -1, 1 << 32))
    left = np.arange(1000, 1 << 21, dtype=np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    right = (np.uint64(0x12345678) ^ (left * np.uint64(0x9E3779B1) & mask)) * inverse & mask
    chosen = np.nonzero((right < 1 << 21) & (right > 1000))[0][:300]
    pairs = [(int(left[i]), int(right[i])) for i in chosen]
    hashes = pair_hash(*(np.array(side, np.uint32) for side in zip(*pairs, strict=True)))
    assert len(pairs) == 300
    assert len(set(hashes.tolist())) == 1
    vocab = {f"t{number:x}_": number for pair in pairs for number in pair}
    merges = [[f"t{number:x}_" for number in pair] for pair in pairs]
    vocab |= {"".join(pair): 256 + i for i, pair in enumerate(merges)}
    model = write_checkpoint(tmp_path / "m", files={"tokenizer.json": tokenizer(vocab, merges)})
    with pytest.raises(UserError, match="have the same hash"):
        compile_tokenizer(model, CONFIG)


def test_hash_tables_grow_a_little() -> None:
    """As many of one hash as the reader searches through are placed; more are refused, at once."""
    few = np.zeros(MAX_PROBES - 1, np.uint32)
    places, slots, probes = _place(few, "merges")
    assert len(set(places)) == len(few) <= slots
    assert probes == MAX_PROBES
    for hashes in (np.zeros(100_000, np.uint32), np.arange(100_000, dtype=np.uint32)):
        with pytest.raises(UserError, match="merges"):
            _place(hashes, "merges")


BILLION = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
RECIPES = {
    "aliases": BILLION,
    "merge keys": "body: &b raw\n<<: *b\n",
    "an int of nothing": "body: !!int ''\n",
    "a Python object": "body: !!python/object/apply:os.system ['true']\n",
    "a tag": "body: !x raw\n",
    "nested": DEEP,
    "nested mappings": "tensors: {a: {b: {c: raw}}}\n",
    "a date that is none": "body: 2024-99-99\n",
    "digits": "body: " + "1" * 100_000 + "\n",
    "binary digits": "body: 0b_\n",
    "infinity": "entropy: .inf\n",
    "a list as key": "? [a]\n: raw\n",
    "a key twice": "body: raw\nbody: nothing\n",
    "not UTF-8": b"body: \xff\n",
    "half a surrogate pair": 'body: "\\ud800"\n',
    "control characters": "body: \x00\x1b\n",
    "two documents": "body: raw\n---\nbody: raw\n",
    "empty": "",
    "text": "raw\n",
    "large": "#" * (2 << 20),
    "long names": f"tensors: {{{'a' * 5000}: {'b' * 5000}}}\n",
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_files(name: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "r.yaml"
    content = RECIPES[name]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_recipe_file(path)
    assert str(error.value).isprintable()
    assert ends_well(capsys, build, EXAMPLE, "-o", tmp_path / "o.mbundle", "--recipe", path)


# --- files that are none ----------------------------------------------------------------------------------------------


def spoil_nothing(path: Path) -> None:
    """The file is missing."""


def spoil_sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


KINDS: dict[str, Callable[[Path], object]] = {
    "missing": spoil_nothing,
    "empty": lambda path: path.write_bytes(b""),
    "a directory": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "zeros": lambda path: path.write_bytes(bytes(100)),
    "a terabyte": spoil_sparse,
}


@pytest.fixture(scope="module")
def measured(bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, and a report on the bundle: report.json."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "text").write_text("The quick brown fox jumps over the lazy dog. " * 60)
    made = ["report", bundle("affine-4bit"), "--against", EXAMPLE, "--text", folder / "text", "--context", 32]
    made += ["--windows", 2, "-o", folder / "report.html", "--json", folder / "report.json"]
    assert main(list(map(str, made))) == 0
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_none(
    kind: str, measured: Path, bundle: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    """Every option that names a file, and every place of a bundle's or checkpoint's file."""
    whole = bundle("affine-4bit")
    path = tmp_path / "x.yaml"
    KINDS[kind](path)
    report = ["report", whole, "--against", EXAMPLE, "--context", 32, "--windows", 2, "-o", tmp_path / "page.html"]
    text = ["--text", measured / "text"]
    for arguments in (
        ["eval", whole, "--context", 32, "--text", path],
        [*report, "--text", path],
        [*report, *text, "--points", path],
        [*report, *text, "--reuse", path],
        ["device-test", whole, "--baseline", path, "--serial", "none"],
        *(["inspect", path], ["verify", path], ["bench", path], ["run", path, "--prompt", "x"]),
        ["pack", path, "-o", tmp_path / "p.mbundle.zip"],
        *(["estimate", path], ["eval", path, *text]),
    ):
        text_of_zeros = kind == "zeros" and arguments[-2] == "--text" and arguments[-1] == path
        assert ends_well(capsys, main, *arguments) or text_of_zeros
    for option in ("--recipe", "--calibration"):
        assert ends_well(capsys, build, EXAMPLE, "-o", tmp_path / "o.mbundle", option, path)
    assert ends_well(capsys, build, path, "-o", tmp_path / "o.mbundle")
    for name in ("manifest.json", "weights.ptd", "tokenizer.bin"):
        spoiled = tmp_path / f"{name}.mbundle"
        shutil.copytree(whole, spoiled)
        (spoiled / name).unlink()
        KINDS[kind](spoiled / name)
        assert ends_well(capsys, main, "verify", spoiled)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        model = write_checkpoint(tmp_path / f"{name}.model")
        (model / name).unlink()
        KINDS[kind](model / name)
        assert ends_well(capsys, build, model, "-o", tmp_path / "o.mbundle", "--recipe", "raw")
    assert not (tmp_path / "o.mbundle").exists()


@pytest.mark.slow
def test_a_packed_text_without_end(measured: Path, tmp_path: Path, capsys: Any) -> None:
    """xz holds a gigabyte of zeros in 150 kB."""
    import lzma

    packer = lzma.LZMACompressor(preset=0)
    piece = bytes(1 << 24)
    data = b"".join(packer.compress(piece) for _ in range(33)) + packer.flush()
    (tmp_path / "t.xz").write_bytes(data)
    assert "bytes of text, which is the limit" in ends_well(capsys, main, "eval", EXAMPLE, "--text", tmp_path / "t.xz")


# --- JSON with something else in it -----------------------------------------------------------------------------------

ODD: list[Any] = [None, True, False, -1, 0, 1.5, 1e300, -1e300, 10**250, "", "x", "\x1b[31m\n", "../../x", [], {}, [[]]]


def spoiled(value: Any, choose: random.Random) -> Any:
    """A copy with an odd value in one place, or without that place."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node)[:60] if isinstance(node, dict) else range(min(len(node), 3)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    copy = json.loads(json.dumps(value))
    walk(copy)
    node, key = choose.choice(places)
    if choose.random() < 0.1:
        del node[key]
    else:
        node[key] = choose.choice(ODD)
    return copy


def test_manifests_with_odd_values(bundle: Callable[..., Path], tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "b.mbundle"
    shutil.copytree(bundle("affine-4bit"), folder)
    good = json.loads((folder / "manifest.json").read_text())
    choose = random.Random(1)
    for number in range(60):
        (folder / "manifest.json").write_text(json.dumps(spoiled(good, choose)))
        ends_well(capsys, main, "inspect", folder)
        if number % 10 == 0:
            ends_well(capsys, main, "verify", folder)
            ends_well(capsys, main, "pack", folder, "-o", tmp_path / "b.mbundle.zip", "--no-entropy")
            ends_well(capsys, main, "bench", folder, "-p", 4, "-n", 2, "-r", 1)
            ends_well(capsys, main, "device-test", folder, "--serial", "none")


@pytest.mark.parametrize(
    "name", ["../x", "a/../x", "./x", "/x", "a//b", "a/", ".", "..", "", "a b", "a\nb", "x\n", "\\x", "'", "x" * 201]
)
def test_names_of_files_in_a_manifest(name: str, bundle: Callable[..., Path], tmp_path: Path) -> None:
    """None that leads elsewhere, or means something to a shell, on a device or here."""
    manifest = json.loads((bundle("affine-4bit") / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"]["weights.ptd"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="files"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("option", ["--reuse", "--points"])
def test_reports_with_odd_values(
    option: str, measured: Path, bundle: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    good: Any = json.loads((measured / "report.json").read_text())
    if option == "--points":
        points = [{"name": "a", "bytes": 10**6, "perplexity": 20.0}, {"name": "b", "bytes": 10**7, "perplexity": 9}]
        good = {"origin": "o", "note": "n", "context": 32, "windows": 2, "points": points}
    common = ["report", bundle("affine-4bit"), "--against", EXAMPLE, "--text", measured / "text", "--context", 32]
    common += ["--windows", 2, "-o", tmp_path / "page.html"]
    common += ["--reuse", measured / "report.json"] if option == "--points" else []
    choose = random.Random(2)
    for _ in range(30):
        (tmp_path / "odd.json").write_text(json.dumps(spoiled(good, choose)))
        ends_well(capsys, main, *common, option, tmp_path / "odd.json")


def refusal(model: Path) -> str:
    """Why a checkpoint is refused; "" if it is not."""
    try:
        with open_model(model) as opened:
            compile_tokenizer(model, opened.checkpoint.config)
    except UserError as error:
        return str(error)
    return ""


def test_checkpoints_with_odd_values(tmp_path: Path) -> None:
    """Only UserError comes out of the readers, and every message is one line."""
    special = {"content": "<s>", "lstrip": False, "special": True}
    good: dict[str, Any] = {
        "tokenizer.json": tokenizer(
            {"ab": 256}, [["a", "b"]], added_tokens=[{"id": 257, **special}], normalizer={"type": "NFC"}
        ),
        "tokenizer_config.json": {
            "tokenizer_class": "GPT2Tokenizer",
            "added_tokens_decoder": {"257": special},
            "extra_special_tokens": {"image_token": "<i>"},
            "bos_token": {"__type": "AddedToken", **special},
            "add_prefix_space": True,
            "auto_map": {"AutoTokenizer": ["a.B", None]},
        },
        "special_tokens_map.json": {"eos_token": special, "additional_special_tokens": ["<q>"]},
        "added_tokens.json": {"<w>": 300},
        "generation_config.json": {"eos_token_id": [1, 2], "temperature": 0.5},
        "config.json": CONFIG | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "head_dim": 16},
    }
    model = write_checkpoint(tmp_path / "m", files=good)
    choose = random.Random(3)
    refused = 0
    for _ in range(500):
        name = choose.choice(list(good))
        (model / name).write_text(json.dumps(spoiled(good[name], choose)))
        message = refusal(model)
        refused += bool(message)
        assert message.isprintable()
        assert len(message) <= MOST_CHARACTERS
        (model / name).write_text(json.dumps(good[name]))
    assert 100 < refused < 450


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "is not a JSON number"),
        ('{"a": 1e999}', "too large"),
        ("1" * 301, "too large"),
        (DEEP, "levels"),
        ("[" * 65 + "]" * 65, "levels"),
        ('["\\ud800"]', "surrogate"),
        ('{"\\udfff": 1}', "surrogate"),
        (b"\xff", "not UTF-8"),
        ("", "not JSON"),
    ],
)
def test_json_that_is_refused(text: str | bytes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_json(text, "it")


def test_json_that_is_read() -> None:
    """Python's rules where they are harmless: the last of equal keys, and whole numbers of any use."""
    assert parse_json('{"a": 1, "a": 2}', "it") == {"a": 2}
    assert parse_json('["\\ud83c\\udf89", 1000000000000000019884624838656, 1e300]', "it") == [
        "\U0001f389",
        10**30 + 19884624838656,
        1e300,
    ]
    assert parse_json("[" * 64 + "]" * 64, "it")


def test_files_have_a_largest_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", 5) == b"12345"
    with pytest.raises(UserError, match="more than 4 bytes"):
        read_bytes(tmp_path / "a", 4)


# --- messages ---------------------------------------------------------------------------------------------------------


def test_messages_are_one_printable_line() -> None:
    assert str(UserError("a\nb\x1b[31m\ud800\u202e")) == "a?b?[31m??"
    message = str(UserError("it is wrong: " + "\u00e9" * 100_000 + "; do this"))
    assert len(message) == MOST_CHARACTERS
    assert message.startswith("it is wrong: ")
    assert message.endswith("; do this")
    assert " ... " in message


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ZeroDivisionError("x\ny"), "internal error in test_hostile_inputs.py:"),
        (MemoryError(), "out of memory"),
        (RecursionError(), "internal error"),
        (PermissionError(13, "Permission denied", "a\nb"), "a?b: Permission denied"),
        (PermissionError(13, "Permission denied", b"\xff"), "?: Permission denied"),
        (KeyboardInterrupt(), "interrupted"),
        (UserError("this and that"), "name: this and that"),
    ],
)
def test_the_net_below_every_command(error: BaseException, words: str, capsys: Any) -> None:
    def work() -> int:
        raise error

    assert run_command("name", work) == 1
    line = capsys.readouterr().err
    assert words in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("target", ["/dev/full", "closed", "pipe"])
def test_output_that_cannot_be_written(target: str, bundle: Callable[..., Path]) -> None:
    """A full disk is an error; a reader that went away, or no standard output at all, is none to talk about."""
    command = f"{BIN / 'mobile-bundle'} inspect {bundle('affine-4bit')}"
    into = {"/dev/full": "> /dev/full", "closed": ">&-", "pipe": "| true"}[target]
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command} {into}"], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if target == "/dev/full":
        assert done.returncode == 1
        assert done.stderr == "mobile-bundle: No space left on device\n"
    if target == "pipe":
        assert done.stderr == ""


# --- devices ----------------------------------------------------------------------------------------------------------

ODD_NAME = b"-a b\n'\"\\ $(touch x) \xff<b>&;*.mbundle"


def test_names_on_the_device_are_plain() -> None:
    for name in ("wiki-6m.mbundle", "Qwen3_0.6B+x=1@2.mbundle"):
        assert folder_name(name) == name
    odd = [os.fsdecode(ODD_NAME), "a b", "a\nb", "..", ".", "-x", "~", "x" * 300, "\u00fc", "$HOME", "a/b", ""]
    names = [folder_name(name) for name in odd]
    assert len(set(names)) == len(names)
    for name in names:
        assert len(name) <= 100
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+=@-")
        assert name[0] not in "-."


@pytest.mark.parametrize("work", ["relative", "/a/../b", "/a\nb", "/a\\b", "/$(x)", "", "/", "/a//b"])
def test_work_folders_that_are_refused(work: str, bundle: Callable[..., Path], capsys: Any) -> None:
    line = ends_well(capsys, main, "device-test", bundle("affine-4bit"), "--serial", "none", "--work", work)
    assert "an absolute path" in line


def test_a_cache_that_the_other_runtimes_have_not(bundle: Callable[..., Path], capsys: Any) -> None:
    arguments = ["device-test", bundle("affine-4bit"), "--serial", "none", "--kv", "int4", "--runtime", "all"]
    assert "--kv needs --runtime native" in ends_well(capsys, main, *arguments)


@pytest.fixture
def odd_bundle(bundle: Callable[..., Path], tmp_path: Path) -> Iterator[str]:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/" + ODD_NAME)
    shutil.copytree(bundle("affine-4bit"), path)
    return path


def test_an_odd_name_in_a_device_test(native_lab: Any, odd_bundle: str, tmp_path: Path) -> None:
    """By the lab's real adbd: shell, files in both directions and sha256sum's output."""
    with native_lab() as device:
        arguments = ["device-test", odd_bundle, "--serial", device.serial, "--cells", "warm-load", "--reps", "1"]
        assert main([*arguments, "--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html")]) == 0
        assert main([*arguments, "--json", str(tmp_path / "again.json")]) == 0
    report, again = (json.loads((tmp_path / f"{name}.json").read_text("utf-8")) for name in ("r", "again"))
    assert report["pushed_bytes"] > 1_000_000
    assert again["pushed_bytes"] == 0  # everything was found to be there
    assert "<b>&" not in (tmp_path / "r.html").read_text("utf-8")
