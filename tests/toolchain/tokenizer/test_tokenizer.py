"""The C tokenizer against Hugging Face's: same ids, same text."""

from __future__ import annotations

import functools
import itertools
import json
import lzma
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from mobile_bundle.corpus.text import read_text
from mobile_bundle.errors import UserError
from mobile_bundle.tokenizer import compile_tokenizer, steps
from support.paths import DATA, EXAMPLE, SHARED, STORIES, VALIDATION_TEXT
from support.texts import ODD, random_texts
from support.tokenizer_library import CONTINUES, SKIP_SPECIAL, Tokenizer, TokenizerError, nfc
from support.tokenizer_pair import Pair
from support.trained_tokenizers import SAMPLE, TRAINED
from tokenizers import AddedToken, normalizers

LOCAL = {"wiki-6m": EXAMPLE, "stories260k": STORIES}
"""Tokenizers in the repository; the others are in ../shared."""
REFERENCES = ["tokenizers/qwen2.5", "models/base", *LOCAL]


# --- the tokenizers ---------------------------------------------------------------------------------------------------


@functools.cache
def reference(name: str) -> Pair:
    folder = LOCAL.get(name, SHARED / name)
    if not (folder / "tokenizer.json").exists():
        pytest.skip(f"needs ../shared/{name}")
    return Pair(folder)


@functools.cache
def corpus(name: str) -> str:
    path = SHARED / "text" / name
    if not path.exists():
        pytest.skip(f"needs ../shared/text/{name}")
    if path.suffix == ".xz":
        with lzma.open(path) as file:
            return file.read(2_000_000).decode("utf-8", errors="ignore")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    def build(name: str, change: Any = None) -> Pair:
        tokenizer = TRAINED[name]()
        if change:
            change(tokenizer)
        folder = tmp_path_factory.mktemp("tokenizer")
        tokenizer.save(str(folder / "tokenizer.json"))
        return Pair(folder)

    return functools.cache(build)


# --- texts ------------------------------------------------------------------------------------------------------------

RUNS = ["a" * 100_000, " " * 100_000, "\n" * 100_000, "▁" * 30_000, "ab" * 50_000, "é" * 30_000, "🎉" * 20_000,
        "e\u0301" * 20_000, " a" * 30_000, "1" * 50_000, " \n" * 30_000, "x" + "\u0301\u0323" * 20_000,
        "'" * 50_000]  # fmt: skip


# --- tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
def test_corpora(name: str) -> None:
    pair = reference(name)
    for file in ("val.txt", "swahili_nt.txt", "train_25mb.txt.xz"):
        text = corpus(file)
        pair.check(text.split("\n"), sample=50, decode=not file.startswith("train"))
        long = [text[at : at + 250_000] for at in range(0, min(len(text), 1_000_000), 250_000)]
        pair.check(long, special=False, sample=50)


@pytest.mark.parametrize("name", REFERENCES)
def test_prose(name: str) -> None:
    """As test_corpora, with the start of its texts, which is in the repository."""
    pair = reference(name)
    for path in (VALIDATION_TEXT, DATA / "swahili.txt.xz"):
        text = read_text(path)
        pair.check(text.split("\n"), sample=50)
        pair.check([text], special=False)


@pytest.mark.parametrize("name", REFERENCES)
def test_odd_texts(name: str) -> None:
    pair = reference(name)
    pair.check(random_texts(1, 3000))
    pair.check(random_texts(2, 300), special=False)


@pytest.mark.parametrize("name", TRAINED)
def test_trained(trained: Any, name: str) -> None:
    pair = trained(name)
    pair.check([*SAMPLE.splitlines(keepends=True)[:10], SAMPLE])
    pair.check(random_texts(3, 3000))
    pair.check(random_texts(4, 300), special=False)


@pytest.mark.parametrize("character", [">", "é"])
def test_a_merge_that_joins_words(trained: Any, character: str) -> None:
    """Words are cut before marks all the same, but not behind such a character; if it is not ASCII, nowhere."""
    pair = trained("gemma crossing" if character == ">" else "gemma crossing é")
    flags = int.from_bytes(pair.compiled.data[24:28], "little")
    assert bool(flags & steps.CUT_WORDS) is bool(flags & steps.UNCUT) is (character == ">")
    chance = random.Random(8)
    parts = [character, " ", "an", "a", "n", "  ", "\u2581", "the", "b", "<"]
    texts = ["".join(chance.choices(parts, k=chance.randrange(1, 30))) for _ in range(2000)]
    pair.check(texts)
    assert pair.theirs.token_to_id(f"{character}\u2581an") in pair.ours.encode(f"the b{character} and")


@pytest.mark.parametrize("name", ["tokenizers/qwen2.5", "stories260k"])
def test_long_runs(name: str) -> None:
    pair = reference(name)
    for text in RUNS:
        expected = pair.theirs.encode(text).ids
        ids = pair.ours.encode(text, True)
        assert ids == expected, text[:20]
        assert pair.ours.decode(ids) == pair.theirs.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("name", ["metaspace never", "llama3", "no split"])
def test_long_runs_trained(trained: Any, name: str) -> None:
    pair = trained(name)
    for text in RUNS:
        assert pair.ours.encode(text) == pair.theirs.encode(text, add_special_tokens=False).ids, text[:20]


def test_every_code_point() -> None:
    """Classes of all characters, beside what the expressions tell apart."""
    pair = reference("tokenizers/qwen2.5")
    points = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    blocks = ["".join(points[at : at + 4096]) for at in range(0, len(points), 4096)]
    texts = [f"a{separator}".join(block) for block in blocks[:4] for separator in ("", " ", "1", "!")]
    pair.check(texts + blocks, special=False, decode=False)


def test_every_code_point_trained(trained: Any) -> None:
    points = [chr(point) for point in range(0x30000) if not 0xD800 <= point < 0xE000]
    blocks = ["a".join(points[at : at + 4096]) for at in range(0, len(points), 4096)]
    for name in ("gpt2", "smollm"):
        pair = trained(name)
        expected = pair.theirs.encode_batch_fast(blocks)
        assert [pair.ours.encode(block) for block in blocks] == [encoding.ids for encoding in expected], name


def test_nfc() -> None:
    theirs = normalizers.NFC()
    points = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    for at in range(0, len(points), 2048):
        for text in ("".join(points[at : at + 2048]), "a".join(points[at : at + 2048])):
            assert nfc(text) == theirs.normalize_str(text)
    decomposed = [normalizers.NFD().normalize_str(point) for point in points[:0x30000]]
    marks = [text for point, text in zip(points, decomposed, strict=False) if point != text and len(text) > 1]
    pairs = ["".join(reversed(text)) for text in marks] + [left + right for left, right in itertools.pairwise(marks)]
    everything = "|".join([*marks, *pairs])
    assert nfc(everything) == theirs.normalize_str(everything)
    chance = random.Random(5)
    pool = [*"aAeo<>=가각\u1100\u1161\u11a8", *(text[-1] for text in marks), *ODD]
    for _ in range(5000):
        text = "".join(chance.choices(pool, k=chance.randrange(1, 50)))
        assert nfc(text) == theirs.normalize_str(text), ascii(text)


@pytest.mark.parametrize("name", ["tokenizers/qwen2.5", "stories260k"])
def test_invalid_utf8(name: str) -> None:
    ours = reference(name).ours
    chance = random.Random(6)
    edges = [
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x96",
        b"\xf0\x9f\x8e",
        b"\xe2\x96a",
        b"\x80",
        b"\xff",
        b"ab\xf0\x9f",
    ]
    for _ in range(3000):
        pieces = [
            chance.choice([*edges, b"text ", "🎉é".encode(), chance.randbytes(3)])
            for _ in range(chance.randrange(1, 6))
        ]
        data = b"".join(pieces)
        assert ours.encode(data) == ours.encode(data.decode("utf-8", errors="replace")), data


def added_tokens() -> list[AddedToken]:
    """Every combination of flags, texts that begin alike, spaces in them."""
    tokens = []
    for number, flags in enumerate(itertools.product((False, True), repeat=4)):
        lstrip, rstrip, single_word, normalized = flags
        options = {"lstrip": lstrip, "rstrip": rstrip, "single_word": single_word, "normalized": normalized}
        tokens.append(AddedToken(f"[{number:x}]", **options))
    tokens += [
        AddedToken("[1]2", normalized=False),
        AddedToken("[1", normalized=False),
        AddedToken("ab", single_word=True),
    ]
    return [
        *tokens,
        AddedToken("two words", normalized=True),
        AddedToken("éz", lstrip=True),
        AddedToken(" ,", rstrip=True),
    ]


@pytest.mark.parametrize(
    "name", ["gpt2", "llama3", "qwen2 nfc", "llama2", "metaspace first", "metaspace always", "smollm"]
)
def test_added_tokens(trained: Any, name: str) -> None:
    def change(tokenizer: Any) -> None:
        tokenizer.add_tokens(added_tokens())
        tokenizer.add_special_tokens(
            [AddedToken("<|x|>", special=True), AddedToken("<y>", normalized=True, special=True)]
        )

    pair = trained(name, change)
    chance = random.Random(7)
    parts = [
        *(token.content for token in added_tokens()),
        "<|x|>",
        "<y>",
        "<s>",
        " ",
        "  ",
        "\u3000",
        "\n",
        "a",
        "ab",
        "_",
        "e\u0301",
        "word",
        "2",
        "]",
        "▁",
    ]
    pair.check(["".join(chance.choices(parts, k=chance.randrange(1, 12))) for _ in range(4000)])


@pytest.mark.parametrize("name", ["tokenizers/qwen2.5", "wiki-6m", "stories260k"])
def test_decode_anything(name: str) -> None:
    """Ids in an order that no text gives."""
    pair = reference(name)
    chance = random.Random(8)
    bytes_of = [pair.theirs.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
    pools = [list(range(pair.ours.vocabulary + 3)), list(range(300))]
    if bytes_of[0] is not None:
        pools += [bytes_of, [*bytes_of[0x80:0xC0], *bytes_of[0xE0:0xE4], 1, 300]]
    for _ in range(3000):
        ids = chance.choices(chance.choice(pools), k=chance.randrange(1, 30))
        for skip in (False, True):
            expected = pair.theirs.decode(ids, skip_special_tokens=skip)
            assert pair.ours.decode(ids, skip) == expected, ids
            assert "".join(pair.ours.stream(ids, SKIP_SPECIAL * skip)) == expected, ids
    assert pair.ours.decode([-1, pair.ours.vocabulary, 2**31 - 1]) == ""


def test_byte_runs() -> None:
    """The decoder sees a run of byte tokens as a whole, a stream as much as it can keep."""
    pair = reference("stories260k")
    byte = [pair.theirs.token_to_id(f"<0x{value:02X}>") for value in range(256)]
    for data in (
        "🎉".encode() * 200,
        "é".encode() * 150 + b"\xff",
        b"\xff" * 300,
        b"a" * 255 + "é".encode() + b"z" * 300,
    ):
        ids = [byte[value] for value in data]
        for tail in ([], [1], [300, *ids[:5]]):
            assert pair.ours.decode(ids + tail) == pair.theirs.decode(ids + tail, skip_special_tokens=False)
    valid = [byte[value] for value in "é🎉".encode() * 100]
    assert "".join(pair.ours.stream(valid)) == "é🎉" * 100
    broken = "".join(pair.ours.stream([*valid, byte[255]]))
    assert broken.startswith("é🎉" * 42)
    assert broken.endswith("\ufffd")


def test_stream() -> None:
    pair = reference("stories260k")
    ids = pair.theirs.encode("Once upon a time", add_special_tokens=False).ids
    assert "".join(pair.ours.stream(ids)) == "Once upon a time"
    assert "".join(pair.ours.stream(ids, CONTINUES)) == " Once upon a time"
    qwen = reference("tokenizers/qwen2.5")
    parts = qwen.ours.stream(qwen.ours.encode("ab 🦜"))
    assert "".join(parts) == "ab 🦜"
    assert all("\ufffd" not in part for part in parts)
    unfinished = qwen.ours.encode("🦜")[:-1]
    assert "".join(qwen.ours.stream(unfinished)) == qwen.theirs.decode(unfinished)


def test_open_from_file(tmp_path: Path, trained: Any) -> None:
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(trained("gpt2").compiled.data)
    assert Tokenizer(path).encode("Hello") == trained("gpt2").ours.encode("Hello")
    for bad in (tmp_path / "none.bin", tmp_path):
        with pytest.raises(TokenizerError, match=r"cannot (open|read)"):
            Tokenizer(bad)


def test_ids_of_special_tokens(tmp_path: Path, trained: Any) -> None:
    (tmp_path / "tokenizer.json").write_text(trained("gpt2").theirs.to_str())
    compiled = compile_tokenizer(tmp_path, {"bos_token_id": 7, "eos_token_id": [5, 6]})
    assert (compiled.bos, compiled.eos) == (7, [5, 6])
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 3}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>"}, "eos_token": "</s>"}))
    compiled = compile_tokenizer(tmp_path, {})
    assert (compiled.bos, compiled.eos) == (0, [3])
    (tmp_path / "generation_config.json").unlink()
    assert compile_tokenizer(tmp_path, {"eos_token_id": None}).eos == [1]
    assert compile_tokenizer(tmp_path, {"eos_token_id": ["</s>", 9]}).eos == [1, 9]


def test_refusals(tmp_path: Path, trained: Any) -> None:
    with pytest.raises(UserError, match=r"tokenizer.json is missing"):
        compile_tokenizer(tmp_path, {})
    base = json.loads(trained("gpt2").theirs.to_str())
    byte_step = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}, "Unigram"),
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, "only BPE and Unigram"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [byte_step, byte_step]}}, "ByteLevel"),
        ({"pre_tokenizer": {"type": "BertPreTokenizer"}}, "BertPreTokenizer"),
        ({"normalizer": {"type": "NFKC"}}, "NFKC"),
        ({"decoder": {"type": "WordPiece"}}, "WordPiece"),
        ({"post_processor": {"type": "BertProcessing"}}, "BertProcessing"),
        ({"model": base["model"] | {"merges": [["q", "absent"]]}}, "merge 0"),
        ({"model": base["model"] | {"dropout": 0.1}}, "dropout"),
        ({"model": base["model"] | {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix"),
        ({"model": base["model"] | {"vocab": {"a": 0, "b": 0}}}, "same id"),
        ({"model": base["model"] | {"vocab": base["model"]["vocab"] | {"zz": 1 << 30}}}, "ids must be"),
        ({"model": 3}, "not supported"),
        ({"added_tokens": [{"content": 5}]}, "no id that is a whole number"),
    ]
    for change, message in cases:
        (tmp_path / "tokenizer.json").write_text(json.dumps(base | change))
        with pytest.raises(UserError, match=message) as error:
            compile_tokenizer(tmp_path, {})
        assert "\n" not in str(error.value)
    for text in ("{", "[]", "\xff"):
        (tmp_path / "tokenizer.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(UserError):
            compile_tokenizer(tmp_path, {})


def test_unigram_refusals(tmp_path: Path, trained: Any) -> None:
    base = json.loads(trained("unigram").theirs.to_str())
    charsmap = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    strip, spaces = {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Replace"}
    spaces |= {"pattern": {"Regex": " {2,}"}, "content": " "}
    model = base["model"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"normalizer": charsmap}, "precompiled_charsmap is not a table"),
        ({"normalizer": {"type": "Sequence", "normalizers": [spaces, strip]}}, "in an order"),
        ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ({"model": model | {"unk_id": None}}, "unk_id"),
        ({"model": model | {"vocab": [*model["vocab"], model["vocab"][4]]}}, "twice"),
        ({"model": model | {"vocab": [*model["vocab"], ["zz", "high"]]}}, "is not a token and its score"),
        ({"model": model | {"vocab": [*model["vocab"], ["zz", float("nan")]]}}, "NaN"),
        ({"model": model | {"type": "BPE", "merges": []}}, "not taken for Unigram"),
        ({"decoder": {"type": "ByteFallback"}}, "decoder"),
    ]
    for change, message in cases:
        (tmp_path / "tokenizer.json").write_text(json.dumps(base | change))
        with pytest.raises(UserError, match=message) as error:
            compile_tokenizer(tmp_path, {})
        assert "\n" not in str(error.value)


def test_unigram_long_runs(trained: Any) -> None:
    for name in ("unigram", "unigram bytes"):
        pair = trained(name)
        for text in RUNS:
            assert pair.ours.encode(text) == pair.theirs.encode(text, add_special_tokens=False).ids, text[:20]


def resealed(data: bytes) -> bytes:
    """With a checksum that fits."""
    data = data[:12] + bytes(4) + data[16:]
    return data[:12] + struct.pack("<I", zlib.crc32(data)) + data[16:]


def test_damage(trained: Any) -> None:
    """Every truncation and a wrong bit is an error; with the checksum put right nothing crashes."""
    chance = random.Random(9)
    for name in ("llama3", "llama2", "deepseek-v3", "unigram bytes", "unigram precompiled"):
        data = trained(name).compiled.data
        assert resealed(data) == data
        sections = struct.unpack_from("<30I", data, 88)
        cuts = {
            0,
            7,
            8,
            100,
            255,
            256,
            len(data) - 1,
            *sections[::2],
            *(a + b for a, b in zip(sections[::2], sections[1::2], strict=True)),
        }
        for cut in [*cuts, *(chance.randrange(len(data)) for _ in range(50))]:
            if cut < len(data):
                with pytest.raises(TokenizerError, match=r"tokenizer\.bin"):
                    Tokenizer(data[:cut])
        for _ in range(150):
            place = chance.randrange(len(data) * 8)
            with pytest.raises(TokenizerError, match=r"tokenizer\.bin"):
                Tokenizer(data[: place // 8] + bytes([data[place // 8] ^ 1 << place % 8]) + data[place // 8 + 1 :])
        for number in range(600):
            place = chance.randrange(256) if number % 2 else chance.randrange(len(data))
            changed = bytearray(data)
            changed[place] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, changed[place] ^ 1 << chance.randrange(8)])
            try:
                tokenizer = Tokenizer(resealed(bytes(changed)))
            except TokenizerError:
                continue
            ids = tokenizer.encode("Hello there, it's 13 ünï 漢字 <s> 🎉 " + "long" * 20, True)
            assert all(0 <= number < tokenizer.vocabulary for number in ids)
            "".join(tokenizer.stream(ids))
            tokenizer.decode(list(range(min(tokenizer.vocabulary, 300))))


def test_what_is_not_needed_changes_no_byte() -> None:
    """Fields and sections from after the first fourteen are zeros in files that do without: the bytes of before."""
    assert reference("stories260k").compiled.data[200:256] == bytes(56)


def test_size() -> None:
    assert len(reference("tokenizers/qwen2.5").compiled.data) < 3_600_000
