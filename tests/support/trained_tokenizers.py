"""Small tokenizers of every kind that the runtime knows, trained on the spot by Hugging Face's library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from mobile_bundle.tokenizer import compile_tokenizer
from support.charsmaps import REPLACEMENTS, charsmap
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
O200K = _WORDS % (_CONTRACTIONS, _CONTRACTIONS) + r"|\p{N}{1,3}" + _TAIL
TEKKEN = _WORDS % ("", "") + r"|\p{N}" + _TAIL
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)
"""Hunyuan's dense models have the same three."""

SAMPLE = (
    "The quick brown fox, it's said, jumped over 13 lazy dogs in 2024; we'll see that they've 1,000,000 more.\n"
    "Les élèves n'étaient pas là. Ça va? Übergröße, naïve café, Ελληνικά, русский язык, 中文字符, 日本語テキスト.\n"
    "    def f(x):\n        return x ** 2  # comment\n\n\tTabs and   spaces\r\n"
) * 20


def byte_level(*before: Any, prefix: bool = False, regex: bool = False) -> Any:
    return pre_tokenizers.Sequence([*before, pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)])


def split(regex: str) -> Any:
    return pre_tokenizers.Split(Regex(regex), "isolated")


def trained_byte_level(pre_tokenizer: Any, normalizer: Any = None, **options: Any) -> Any:
    tokenizer = tokenizers.Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
    )
    tokenizer.train_from_iterator(SAMPLE.splitlines(keepends=True), trainer)
    return tokenizer


def trained_metaspace(
    normalizer: Any = None, pre_tokenizer: Any = None, byte_fallback: bool = True, fuse: bool = True, strip: bool = True
) -> Any:
    """SentencePiece-style: a vocabulary trained with Metaspace, the bytes put in front of it."""
    trainee = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    trainee.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=500, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"], limit_alphabet=60
    )
    trainee.train_from_iterator(SAMPLE.splitlines(), trainer)
    model = json.loads(trainee.to_str())["model"]
    vocab = model["vocab"]
    if byte_fallback:
        vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    merges = [tuple(pair) for pair in model["merges"]]
    for left, right in (("\u2581", "\u2581"), ("\u2581\u2581", "\u2581\u2581")):
        merges.append((left, right))
        vocab.setdefault(left + right, len(vocab))
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=fuse, byte_fallback=byte_fallback)
    )
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def llama_normalizer() -> Any:
    return normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])


def gemma() -> Any:
    """Its pre-tokenizer splits at spaces, of which its normalizer leaves none."""
    spaces = pre_tokenizers.Split(" ", "merged_with_previous")
    return trained_metaspace(normalizers.Replace(" ", "\u2581"), spaces, strip=False)


def crossing(text: str) -> Any:
    """Gemma's with one merge that crosses the place before a mark, as the real one has for ">\u2581</"."""
    description = json.loads(gemma().to_str())
    vocabulary, merges = description["model"]["vocab"], description["model"]["merges"]
    for left, right in ((text, "\u2581"), (text + "\u2581", "a"), (text + "\u2581a", "n")):
        for token in (left, right, left + right):
            vocabulary.setdefault(token, len(vocabulary))
        merges.insert(0, [left, right])
    return tokenizers.Tokenizer.from_str(json.dumps(description))


def gapped_bytes() -> Any:
    """Byte fallback with some of the bytes only: unknown tokens and bytes side by side."""
    description = json.loads(trained_metaspace(normalizers.Replace(" ", "\u2581")).to_str())
    for byte in (0xB8, 0xBA, 0x9F, 0x94):
        del description["model"]["vocab"][f"<0x{byte:02X}>"]
    return tokenizers.Tokenizer.from_str(json.dumps(description))


def trained_unigram(
    normalizer: Any = None, pre_tokenizer: Any = None, decoder: Any = None, byte_fallback: bool = False
) -> Any:
    """SentencePiece's other model. byte_fallback: with the bytes in the vocabulary, some in the middle of it."""
    trainee = tokenizers.Tokenizer(models.Unigram())
    trainee.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>"
    )
    trainee.train_from_iterator(SAMPLE.splitlines(), trainer)
    vocab = [tuple(entry) for entry in json.loads(trainee.to_str())["model"]["vocab"]]
    if byte_fallback:
        vocab[10:10] = [(f"<0x{byte:02X}>", 0.0) for byte in range(256)]
    # Whatever is not scored as a sum of its parts: a token that no way leads to, unknown characters that are one.
    vocab += [("\u2581the", -1.5), ("\u0416\u0416", -500.0), ("qqqq", -3.0), ("\u2581\u2581", -4.0)]
    tokenizer = tokenizers.Tokenizer(models.Unigram(vocab, 0, byte_fallback))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.Metaspace()
    tokenizer.decoder = decoder or decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def t5_normalizer() -> Any:
    """T5's without its table of characters."""
    return normalizers.Sequence([normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), "\u2581")])


def precompiled_normalizer() -> Any:
    """T5's order of steps, with a small table."""
    return normalizers.Sequence([normalizers.Precompiled(charsmap(REPLACEMENTS)), *t5_normalizer()])


def byte_decoder() -> Any:
    return decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])


def with_template(tokenizer: Any) -> Any:
    special = [("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))]
    template = processors.TemplateProcessing(single="<s> <s> $A </s>", pair="$A $B", special_tokens=special)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), template])
    return tokenizer


def falcon() -> Any:
    """Steps before and behind ByteLevel: those behind it see a character for every byte."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            pre_tokenizers.Digits(),
            split("[0-9][0-9][0-9]"),
        ]
    )


def falcon_e() -> Any:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return byte_level(pre_tokenizers.Punctuation("contiguous"), digits, split("[0-9][0-9][0-9]"), regex=True)


def every_behaviour() -> Any:
    cut = pre_tokenizers.Split
    return byte_level(
        cut(Regex(r"\s+"), "merged_with_previous"),
        cut(Regex("[.!,]"), "merged_with_next"),
        cut(Regex("[aeiou]"), "contiguous"),
        cut(Regex("[qx]+"), "removed"),
        cut("th", "isolated"),
        cut(Regex("[^k]+"), "removed", invert=True),
    )


TRAINED: dict[str, Any] = {
    "gpt2": lambda: trained_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "gpt2 by Split": lambda: trained_byte_level(byte_level(split(GPT2))),
    "gpt2 prefix space": lambda: trained_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "llama3": lambda: with_template(trained_byte_level(byte_level(split(LLAMA3)), ignore_merges=True)),
    "qwen2 nfc": lambda: trained_byte_level(byte_level(split(QWEN2)), normalizers.NFC()),
    "smollm": lambda: trained_byte_level(byte_level(pre_tokenizers.Digits(individual_digits=True), regex=True)),
    "digit runs, prefix space": lambda: trained_byte_level(
        byte_level(pre_tokenizers.Digits(), prefix=True, regex=True)
    ),
    "o200k": lambda: trained_byte_level(byte_level(split(O200K)), ignore_merges=True),
    "gpt-4o": lambda: trained_byte_level(byte_level(split(O200K))),
    "dbrx": lambda: trained_byte_level(byte_level(split(LLAMA3))),
    "tekken": lambda: trained_byte_level(byte_level(split(TEKKEN)), ignore_merges=True),
    "cl100k": lambda: trained_byte_level(byte_level(split(CL100K))),
    "deepseek-v3": lambda: trained_byte_level(byte_level(*map(split, DEEPSEEK_V3))),
    "falcon": lambda: trained_byte_level(falcon()),
    "falcon-e": lambda: trained_byte_level(falcon_e()),
    "every behaviour": lambda: trained_byte_level(every_behaviour()),
    "split characters": lambda: trained_metaspace(
        None, pre_tokenizers.Sequence([split(r"\p{Nd}"), pre_tokenizers.Metaspace(prepend_scheme="first")])
    ),
    "no split": lambda: trained_byte_level(byte_level()),
    "llama2": lambda: with_template(trained_metaspace(llama_normalizer())),
    "llama2 not fused": lambda: trained_metaspace(llama_normalizer(), byte_fallback=False, fuse=False, strip=False),
    "llama2 unknown": lambda: trained_metaspace(llama_normalizer(), byte_fallback=False),
    "some bytes": gapped_bytes,
    "gemma": gemma,
    "gemma crossing": lambda: crossing(">"),
    "gemma crossing é": lambda: crossing("é"),
    "metaspace first": lambda: trained_metaspace(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "metaspace always": lambda: trained_metaspace(None, pre_tokenizers.Metaspace(prepend_scheme="always")),
    "metaspace never": lambda: trained_metaspace(None, pre_tokenizers.Metaspace(prepend_scheme="never", split=False)),
    "unigram precompiled": lambda: trained_unigram(precompiled_normalizer()),
    "unigram": lambda: with_template(trained_unigram()),
    "unigram t5": lambda: trained_unigram(
        t5_normalizer(),
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
    ),
    "unigram bytes": lambda: trained_unigram(
        normalizers.Sequence([normalizers.NFC(), normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]),
        pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
        byte_decoder(),
        byte_fallback=True,
    ),
    "unigram never": lambda: trained_unigram(
        None,
        pre_tokenizers.Metaspace(prepend_scheme="never", split=False),
        decoders.Metaspace(prepend_scheme="never"),
        byte_fallback=True,
    ),
    "metaspace nfc": lambda: trained_metaspace(normalizers.NFC(), pre_tokenizers.Metaspace()),
}


def small_tokenizer(name: str, folder: Path) -> Path:
    """The tokenizer.bin of one of them, in an empty folder."""
    TRAINED[name]().save(str(folder / "tokenizer.json"))
    path = folder / "tokenizer.bin"
    path.write_bytes(compile_tokenizer(folder, {}).data)
    return path
