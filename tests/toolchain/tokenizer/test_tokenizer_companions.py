"""tokenizer_config.json and the other files beside tokenizer.json: the ids that transformers' AutoTokenizer gives."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import transformers
from mobile_bundle.errors import UserError
from mobile_bundle.tokenizer import compile_tokenizer
from support.tokenizer_library import Tokenizer
from support.trained_tokenizers import TRAINED, llama_normalizer, trained_metaspace

transformers.logging.set_verbosity_error()

ADDED = ("<|user|>", "<tool>", " odd ", "over", "<s>", "<|endoftext|>", "the", "\u00e9l", "new.token", "[PAD]")
TEXTS = [
    "",
    " ",
    "Hello  world, it's 12345 over there\n",
    "  two spaces before",
    "<s>over<|user|> and <tool>the</tool> odd  odd new.token\u00e9l",
    "a<|user|>b <|user|> c  <|user|>",
    "the over\nover the theover [PAD] <unk> <|endoftext|>",
    "na\u00efve \u00e9l\u00e8ves e\u0301l \u6f22\u5b57 \U0001f389",
    "\u2581marks\u2581and spaces \u2581",
    "\t tabs \r\n lines \n\n",
]
CLASSES = (
    None,
    "PreTrainedTokenizerFast",
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "GemmaTokenizer",
    "GemmaTokenizerFast",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "GPTNeoXTokenizerFast",
    "Qwen2Tokenizer",
    "TokenizersBackend",
    "NobodyKnowsTokenizer",
)
FAMILIES = (
    *("llama", "llama", "qwen2", "qwen3", "mistral", "bitnet"),
    *("gemma3_text", "granite", "smollm3", "ernie4_5", "olmo2", "exaone4", "phi3"),
)
REFUSED = re.compile(
    "puts a space before every word|the same text after normalisation|does not fit|is not in the vocabulary|"
    "its model is not taken for Unigram|has spaces that the normalizer changes"
)


def write(folder: Path, tokenizer: Any, family: str, files: dict[str, Any]) -> Path:
    """A directory with tokenizer.json, config.json and `files`, name without .json to value."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"model_type": family, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 1000}))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def compare(folder: Path, theirs: Any) -> None:
    """Every text has the same ids, and every list of ids the same text."""
    compiled = compile_tokenizer(folder, json.loads((folder / "config.json").read_text()))
    ours = Tokenizer(compiled.data)
    for text in TEXTS:
        for special in (False, True):
            ids = theirs.encode(text, add_special_tokens=special)
            assert ours.encode(text, special) == ids, (text, theirs.convert_ids_to_tokens(ids), special)
            for skip in (False, True):
                assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip), (ids, skip)
    vocabulary = theirs.get_vocab()
    assert compiled.vocabulary == max(vocabulary.values()) + 1
    if theirs.bos_token is not None:
        assert compiled.bos == theirs.bos_token_id
    if theirs.eos_token is not None:
        assert compiled.eos == [theirs.eos_token_id]


def token(content: str, **flags: bool) -> dict[str, Any]:
    """An entry of added_tokens_decoder."""
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    return {"content": content} | plain | flags


def random_token(choose: random.Random, content: str) -> dict[str, Any]:
    flags = {key: choose.random() < 0.3 for key in ("lstrip", "rstrip", "single_word", "normalized", "special")}
    return {"content": content} | {key: value for key, value in flags.items() if choose.random() < 0.9}


def random_files(choose: random.Random, size: int) -> dict[str, Any]:
    """tokenizer_config.json and the older files, with anything in them that changes ids."""
    config: dict[str, Any] = {}
    if (name := choose.choice(CLASSES)) is not None:
        config["tokenizer_class"] = name
    if choose.random() < 0.5:
        start = choose.choice((0, size, size + 7))
        contents = choose.sample(ADDED, choose.randint(0, 4))
        listed = {str(start + 3 * i): random_token(choose, content) for i, content in enumerate(contents)}
        config["added_tokens_decoder"] = dict(choose.sample(list(listed.items()), len(listed)))
    for key in ("additional_special_tokens", "extra_special_tokens"):
        if choose.random() < 0.3:
            config[key] = choose.sample(ADDED, choose.randint(0, 3))
    if choose.random() < 0.15:
        config["extra_special_tokens"] = {"image_token": "<tool>", "video_token": "new.token"}
    for key in ("bos_token", "eos_token", "unk_token", "pad_token", "image_token"):
        if choose.random() < 0.3:
            content = choose.choice(ADDED)
            serialized = {"__type": "AddedToken"} | token(content, lstrip=choose.random() < 0.5)
            config[key] = choose.choice((content, serialized, None))
    for key, values in (
        ("add_prefix_space", (True, False, None)),
        ("legacy", (True, False)),
        ("add_bos_token", (True, False)),
        ("add_eos_token", (True, False)),
        ("clean_up_tokenization_spaces", (True, False)),
        ("model_max_length", (10**30,)),
    ):
        if choose.random() < 0.4:
            config[key] = choose.choice(values)
    files: dict[str, Any] = {"tokenizer_config": config} if choose.random() < 0.95 else {}
    if choose.random() < 0.4:
        special: dict[str, Any] = {}
        for key in ("bos_token", "eos_token", "pad_token", "sound_token"):
            if choose.random() < 0.4:
                content = choose.choice(ADDED)
                special[key] = choose.choice((content, random_token(choose, content)))
        if choose.random() < 0.4:
            special["additional_special_tokens"] = choose.sample(ADDED, 2)
        files["special_tokens_map"] = special
    if choose.random() < 0.3:
        files["added_tokens"] = {content: size + 5 - i for i, content in enumerate(choose.sample(ADDED, 3))}
    return files


def load(folder: Path) -> Any:
    """AutoTokenizer's, None where transformers does not take the files either."""
    try:
        return transformers.AutoTokenizer.from_pretrained(folder)
    except Exception:
        return None


def refused(folder: Path) -> bool:
    """Whether the runtime cannot do what the files ask for, and says so in the words that are expected."""
    try:
        compile_tokenizer(folder, json.loads((folder / "config.json").read_text()))
    except UserError as error:
        return REFUSED.search(str(error)) is not None
    return False


@pytest.mark.parametrize("name", TRAINED)
def test_random_companions(name: str, tmp_path: Path) -> None:
    """For every kind of tokenizer 25 directories with random companions."""
    choose = random.Random(name)
    tokenizer = TRAINED[name]()
    compared = 0
    for number in range(25):
        files = random_files(choose, tokenizer.get_vocab_size())
        folder = write(tmp_path / str(number), tokenizer, choose.choice(FAMILIES), files)
        theirs = load(folder)
        if theirs is not None and not refused(folder):
            compare(folder, theirs)
            compared += 1
    assert compared >= 8


def test_token_only_in_config(tmp_path: Path) -> None:
    """A token of the chat that tokenizer.json does not know is one token, not the pieces of its text."""
    tokenizer = TRAINED["gpt2"]()
    listed = {str(tokenizer.get_vocab_size()): token("<|user|>")}
    folder = write(tmp_path, tokenizer, "llama", {"tokenizer_config": {"added_tokens_decoder": listed}})
    compare(folder, load(folder))
    assert Tokenizer(compile_tokenizer(folder, {}).data).encode("<|user|>") == [tokenizer.get_vocab_size()]


@pytest.mark.parametrize("legacy", [False, True])
def test_llama_class_rebuilds(legacy: bool, tmp_path: Path) -> None:
    """LlamaTokenizer brings its own steps: other ids than tokenizer.json alone gives, and those are right."""
    files = {"tokenizer_config": {"tokenizer_class": "LlamaTokenizer", "legacy": legacy}}
    tokenizer = trained_metaspace(llama_normalizer())
    folder = write(tmp_path, tokenizer, "llama", files)
    compare(folder, load(folder))
    ids = Tokenizer(compile_tokenizer(folder, {}).data).encode("  over")
    assert ids != tokenizer.encode("  over", add_special_tokens=False).ids


REFUSALS: dict[str, dict[str, Any]] = {
    "split_special_tokens": {"split_special_tokens": True},
    "fix_mistral_regex": {"fix_mistral_regex": True},
    "clean_up_tokenization_spaces": {
        "clean_up_tokenization_spaces": True,
        "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True,
    },
    "fast_tokenizer_files": {"fast_tokenizer_files": ["tokenizer.9.9.9.json"]},
    "added_tokens_decoder": {"added_tokens_decoder": [1]},
    "not a whole number": {"added_tokens_decoder": {"1.5": token("a")}},
    "not a token": {"added_tokens_decoder": {"1": 5}},
    "not true or false": {"added_tokens_decoder": {"1": {"content": "a", "lstrip": 1}}},
    "neither a list nor": {"extra_special_tokens": "abc"},
    "bos_token": {"bos_token": 7},
    "tokenizer_class": {"tokenizer_class": 7},
    "add_prefix_space": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": "yes"},
}


@pytest.mark.parametrize("words", REFUSALS)
def test_refusals(words: str, tmp_path: Path) -> None:
    folder = write(tmp_path, TRAINED["gpt2"](), "llama", {"tokenizer_config": REFUSALS[words]})
    with pytest.raises(UserError, match=words):
        compile_tokenizer(folder, {"model_type": "llama"})


def test_notes(tmp_path: Path) -> None:
    """What transformers might do differently is told."""
    tokenizer = TRAINED["gpt2"]()
    folder = write(tmp_path / "a", tokenizer, "llama", {"tokenizer_config": {"tokenizer_class": "SomeTokenizer"}})
    assert "SomeTokenizer" in compile_tokenizer(folder, {}).notes[0]
    code = {"tokenizer_config": {"auto_map": {"AutoTokenizer": ["mine.Tokenizer", None]}}}
    assert "auto_map" in compile_tokenizer(write(tmp_path / "b", tokenizer, "llama", code), {}).notes[0]
    assert not compile_tokenizer(write(tmp_path / "c", tokenizer, "llama", {}), {}).notes
