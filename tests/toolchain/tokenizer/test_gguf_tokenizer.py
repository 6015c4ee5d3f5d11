"""Tokenizers out of a GGUF's metadata: the same tokenizer.bin, or the same ids, as from the files it was made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
from mobile_bundle.errors import UserError
from mobile_bundle.tokenizer import CompiledTokenizer, compile_tokenizer
from support.paths import STORIES
from support.texts import ODD, random_texts
from support.tokenizer_library import Tokenizer
from support.trained_tokenizers import SAMPLE, TRAINED, llama_normalizer, trained_metaspace

Kind = gguf.TokenType
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write(path: Path, *edits: Callable[[gguf.GGUFWriter], None]) -> CompiledTokenizer:
    """A GGUF without tensors, and its tokenizer compiled."""
    writer = gguf.GGUFWriter(path, "llama")
    for edit in edits:
        edit(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return compile_tokenizer(path, {})


def tokens_of(tokenizer: Any, scores: bool = False) -> Callable[[gguf.GGUFWriter], None]:
    """Tokens and types as convert_hf_to_gguf.py takes them from a tokenizer, with three unused ones behind them.

    scores: SentencePiece's, which fall with the id, instead of merges."""
    description = json.loads(tokenizer.to_str())
    vocabulary = dict(description["model"]["vocab"])
    added = {token["content"]: token for token in description["added_tokens"]}
    vocabulary |= {content: token["id"] for content, token in added.items()}

    def edit(writer: gguf.GGUFWriter) -> None:
        texts, kinds, numbers = [], [], []
        by_id = {number: text for text, number in vocabulary.items()}
        for number in range(max(by_id) + 4):
            text = by_id.get(number, f"[PAD{number}]")
            texts.append(text)
            if text in added:
                special = Kind.UNKNOWN if scores and text == "<unk>" else Kind.CONTROL
                kinds.append(special if added[text]["special"] else Kind.USER_DEFINED)
            elif scores and text.startswith("<0x"):
                kinds.append(Kind.BYTE)
            else:
                kinds.append(Kind.NORMAL if number in by_id else Kind.UNUSED)
            numbers.append(-float(number) if kinds[-1] == Kind.NORMAL else 0.0)
        writer.add_token_list(texts)
        writer.add_token_types(kinds)
        if scores:
            writer.add_token_scores(numbers)
        else:
            writer.add_token_merges([" ".join(pair) for pair in description["model"]["merges"]])

    return edit


def special_ids(tokenizer: Any, bos: str, eos: str) -> Callable[[gguf.GGUFWriter], None]:
    def edit(writer: gguf.GGUFWriter) -> None:
        writer.add_bos_token_id(tokenizer.token_to_id(bos))
        writer.add_eos_token_id(tokenizer.token_to_id(eos))

    return edit


def pre(name: str, model: str = "gpt2") -> Callable[[gguf.GGUFWriter], None]:
    def edit(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model(model)
        writer.add_tokenizer_pre(name)

    return edit


def from_files(directory: Path, tokenizer: Any, bos: str, eos: str) -> CompiledTokenizer:
    """Compiled from tokenizer.json and tokenizer_config.json."""
    directory.mkdir()
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"bos_token": bos, "eos_token": eos, "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return compile_tokenizer(directory, {})


PRE = {
    "gpt-2": "gpt2", "olmo": "gpt2", "exaone4": "gpt2", "smollm": "smollm", "starcoder": "smollm", "refact": "smollm",
    "exaone": "smollm", "llama-bpe": "llama3", "lfm2": "llama3", "dbrx": "dbrx", "smaug-bpe": "dbrx",
    "qwen2": "qwen2 nfc", "gpt-4o": "gpt-4o", "llama4": "gpt-4o", "tekken": "tekken", "deepseek-v3": "deepseek-v3",
    "hunyuan-dense": "deepseek-v3",
}  # fmt: skip
"""tokenizer.ggml.pre, and the tokenizer of trained_tokenizers.py that has these steps."""
ADD_BOS = ("llama-bpe", "lfm2", "tekken")
"""Those that add BOS by themselves, and only BOS."""


@pytest.mark.parametrize("name", PRE)
def test_byte_level(tmp_path: Path, name: str) -> None:
    tokenizer = TRAINED[PRE[name]]()
    tokenizer.add_tokens([tokenizers.AddedToken("<tool>", normalized=False)])
    if name in ADD_BOS:
        number = tokenizer.token_to_id("<s>")
        template = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", number)])
        tokenizer.post_processor = template
    theirs = from_files(tmp_path / "files", tokenizer, "<s>", "</s>")
    ours = write(
        tmp_path / "model.gguf",
        pre(name),
        tokens_of(tokenizer),
        special_ids(tokenizer, "<s>", "</s>"),
        lambda writer: writer.add_chat_template(TEMPLATE),
    )
    assert ours == theirs
    assert ours.has_chat
    library = Tokenizer(ours.data)
    texts = [*random_texts(5, 400), *SAMPLE.splitlines(), "".join(ODD), "a<tool>b</s> c"]
    for text, encoding in zip(texts, tokenizer.encode_batch_fast(texts), strict=True):
        assert library.encode(text, True) == encoding.ids, repr(text[:80])


def test_sentencepiece(tmp_path: Path) -> None:
    """Merges are not in the file: they follow from the scores, as in the tokenizer.json that transformers makes."""
    tokenizer = trained_metaspace(llama_normalizer())
    description = json.loads(tokenizer.to_str())
    vocabulary = description["model"]["vocab"]
    usual = sorted((number, text) for text, number in vocabulary.items() if number > 2 and not text.startswith("<0x"))
    merges = []
    for _, text in usual:
        pairs = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        known = [pair for pair in pairs if all(half in {word for _, word in usual} for half in pair)]
        merges += sorted(known, key=lambda pair: [vocabulary[half] for half in pair])
    description["model"]["merges"] = merges
    number = tokenizer.token_to_id("<s>")
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(description))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", number)]
    )
    theirs = from_files(tmp_path / "files", tokenizer, "<s>", "</s>")
    ours = write(
        tmp_path / "model.gguf",
        pre("default", "llama"),
        tokens_of(tokenizer, scores=True),
        special_ids(tokenizer, "<s>", "</s>"),
        lambda writer: writer.add_chat_template(TEMPLATE),
    )
    assert ours == theirs
    library = Tokenizer(ours.data)
    texts = [*random_texts(6, 400), *SAMPLE.splitlines(), "".join(ODD)]
    for text, encoding in zip(texts, tokenizer.encode_batch_fast(texts), strict=True):
        assert library.encode(text, True) == encoding.ids, repr(text[:80])


def test_sentencepiece_itself(tmp_path: Path) -> None:
    """The ids of SentencePiece's own library, from its model's pieces, types and scores."""
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text(SAMPLE)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "sp"),
        model_type="bpe",
        vocab_size=460,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.98,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sp.model"))
    numbers = range(model.get_piece_size())

    def kind(number: int) -> Kind:
        if model.is_unknown(number):
            return Kind.UNKNOWN
        if model.is_control(number):
            return Kind.CONTROL
        return Kind.BYTE if model.is_byte(number) else Kind.NORMAL

    def edit(writer: gguf.GGUFWriter) -> None:
        writer.add_token_list([model.id_to_piece(number) for number in numbers])
        writer.add_token_types([kind(number) for number in numbers])
        writer.add_token_scores([model.get_score(number) for number in numbers])
        writer.add_bos_token_id(model.bos_id())

    library = Tokenizer(write(tmp_path / "model.gguf", pre("default", "llama"), edit).data)
    texts = [line for line in SAMPLE.splitlines() if line] + ["and the then they're 12,345 naïve 日本語 ü  two  spaces"]
    for text in texts:
        assert library.encode(text, True) == [model.bos_id(), *model.encode(text)], text


def test_settings_of_the_file(tmp_path: Path) -> None:
    tokenizer = TRAINED["gpt2"]()
    base = (pre("gpt-2"), tokens_of(tokenizer), special_ids(tokenizer, "<s>", "</s>"))
    bos, eos = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    found = write(tmp_path / "1.gguf", *base, lambda writer: writer.add_add_bos_token(True))
    assert Tokenizer(found.data).encode("x", True)[0] == bos
    assert (found.bos, found.eos, found.chat_template) == (bos, [eos], None)
    found = write(tmp_path / "2.gguf", *base, lambda writer: writer.add_add_eos_token(True))
    assert Tokenizer(found.data).encode("x", True)[-1] == eos
    plain = write(tmp_path / "3.gguf", *base)
    assert Tokenizer(plain.data).encode("x", True) == tokenizer.encode("x").ids
    scored = trained_metaspace(llama_normalizer())
    base = (pre("default", "llama"), tokens_of(scored, scores=True), special_ids(scored, "<s>", "</s>"))
    found = write(tmp_path / "4.gguf", *base, lambda writer: writer.add_add_space_prefix(False))
    without = Tokenizer(found.data)
    assert without.decode(without.encode(" the fox")) == " the fox"
    found = write(tmp_path / "5.gguf", *base, lambda writer: writer.add_add_bos_token(False))
    assert bos not in Tokenizer(found.data).encode("x", True)


def test_refusals(tmp_path: Path) -> None:
    tokenizer, scored = TRAINED["gpt2"](), trained_metaspace(llama_normalizer())
    tokens, bos = tokens_of(tokenizer), special_ids(tokenizer, "<s>", "</s>")

    def typed(kinds: list[int]) -> Callable[[gguf.GGUFWriter], None]:
        def edit(writer: gguf.GGUFWriter) -> None:
            writer.add_token_list(["a", "b", "a"])
            writer.add_token_types(kinds)
            writer.add_token_scores([-1.0] * 3)

        return edit

    def no_merges(writer: gguf.GGUFWriter) -> None:
        writer.add_token_list(["a", "b"])
        writer.add_token_types([1, 1])

    def wrong_merge(writer: gguf.GGUFWriter) -> None:
        no_merges(writer)
        writer.add_token_merges(["a b"])

    def no_text(writer: gguf.GGUFWriter) -> None:
        writer.add_array("tokenizer.ggml.tokens", [b"\xff"])
        writer.add_token_types([1])

    for edits, words in (
        ((pre("deepseek-llm"), tokens, bos), "its pre-tokenizer 'deepseek-llm' is not supported; supported are gpt-2"),
        ((pre("default"), tokens, bos), "it does not say how its tokenizer splits text"),
        ((lambda writer: writer.add_tokenizer_model("gpt2"), tokens, bos), "does not say how its tokenizer splits"),
        ((pre("default", "bert"), tokens, bos), r"its tokenizer \(bert\) is not supported"),
        ((pre("gpt-2"),), "it has no tokenizer"),
        ((pre("gpt-2"), no_merges), "has no merges"),
        ((pre("gpt-2"), wrong_merge), r"model.gguf, its tokenizer: merge 0"),
        ((pre("gpt-2"), no_text), "tokenizer.ggml.tokens in its metadata holds text that is not UTF-8"),
        ((pre("x", "llama"), no_merges), "neither merges nor a score for every token"),
        ((pre("x", "llama"), typed([1, 1, 5])), "scores are all the same"),
        ((pre("x", "llama"), typed([1, 1])), "no type for every token"),
        ((pre("x", "llama"), tokens_of(scored, scores=True)), "adds a bos_token but names none"),
    ):
        with pytest.raises(UserError, match=words):
            write(tmp_path / "model.gguf", *edits)


def test_tokens_of_the_same_text(tmp_path: Path) -> None:
    def edit(writer: gguf.GGUFWriter) -> None:
        writer.add_token_list(["a", "b", "ab", "a"])
        writer.add_token_types([1, 1, 1, 1])
        writer.add_token_merges(["a b"])

    with pytest.raises(UserError, match="the tokens 0 and 3 are the same text, 'a'"):
        write(tmp_path / "model.gguf", pre("gpt-2"), edit)


@pytest.mark.parametrize(
    ("folder", "name"), [("tokenizers/qwen2.5", "qwen2"), ("stories260k", "llama"), ("models/base", "llama-bpe")]
)
def test_real_tokenizers(tmp_path: Path, request: pytest.FixtureRequest, folder: str, name: str) -> None:
    """The bytes of the tokenizer.json's own tokenizer.bin."""
    path = STORIES if folder == "stories260k" else request.getfixturevalue("shared") / folder
    tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.no_truncation()
    if name == "llama-bpe":  # no checkpoint at hand has these steps: those of Llama 3 around another vocabulary
        tokenizer = tokenizers.Tokenizer.from_str(_as_llama3(tokenizer.to_str()))
    bos, eos = ("<s>", "</s>") if name == "llama" else ("<|endoftext|>",) * 2
    theirs = from_files(tmp_path / "files", tokenizer, bos, eos)
    ours = write(
        tmp_path / "model.gguf",
        pre("default", "llama") if name == "llama" else pre(name),
        tokens_of(tokenizer, scores=name == "llama"),
        special_ids(tokenizer, bos, eos),
        lambda writer: writer.add_chat_template(TEMPLATE),
    )
    assert ours == theirs


def _as_llama3(text: str) -> str:
    description = json.loads(text)
    wanted = json.loads(TRAINED["llama3"]().to_str())
    description["pre_tokenizer"] = wanted["pre_tokenizer"]
    description["model"]["ignore_merges"] = True
    first = description["added_tokens"][0]["content"]
    description["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": first, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {first: {"id": first, "ids": [0], "tokens": [first]}},
    }
    return json.dumps(description)
