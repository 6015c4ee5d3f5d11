"""The tokenizer in a GGUF's metadata, as the tokenizer.json and tokenizer_config.json that it was converted from.

Two kinds of BPE: byte-level ("gpt2"), whose pre-tokenizer is only named (tokenizer.ggml.pre), and SentencePiece's
("llama"), whose merges are only scored. What cannot be told exactly from the metadata is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mobile_bundle.models.gguf import GgufFile
from mobile_bundle.models.gguf.metadata import Metadata
from mobile_bundle.tokenizer.steps import LLAMA3_EXPRESSION, MARK, QWEN2_EXPRESSION

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""tokenizer.ggml.token_type."""
_SPECIAL = (UNKNOWN, CONTROL)
_ADDED = (UNKNOWN, CONTROL, USER_DEFINED)

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_GPT2 = {**_BYTE_LEVEL, "use_regex": True}


def _split(expression: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


@dataclass(frozen=True)
class _Pre:
    """What a name of tokenizer.ggml.pre stands for: the steps before a ByteLevel step, and other settings.

    adds_bos: what llama.cpp does where tokenizer.ggml.add_bos_token is missing."""

    steps: tuple[dict[str, Any], ...]
    normalizer: dict[str, Any] | None = None
    ignore_merges: bool = False
    adds_bos: bool = False


_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORDS = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K = _WORDS % (_SUFFIX, _SUFFIX) + r"|\p{N}{1,3}" + _TAIL
_TEKKEN = _WORDS % ("", "") + r"|\p{N}" + _TAIL
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)
_LLAMA3 = _Pre((_split(LLAMA3_EXPRESSION), _BYTE_LEVEL), ignore_merges=True, adds_bos=True)
_CL100K = _Pre((_split(LLAMA3_EXPRESSION), _BYTE_LEVEL))
_DIGITS = _Pre(({"type": "Digits", "individual_digits": True}, _GPT2))
_THREE_SPLITS = _Pre((*map(_split, _DEEPSEEK_V3), _BYTE_LEVEL))
_PRE = {
    "gpt-2": _Pre((_GPT2,)),
    "olmo": _Pre((_GPT2,)),
    "exaone4": _Pre((_GPT2,)),
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "exaone": _DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "lfm2": _LLAMA3,
    "dbrx": _CL100K,
    "smaug-bpe": _CL100K,
    "qwen2": _Pre((_split(QWEN2_EXPRESSION), _BYTE_LEVEL), normalizer={"type": "NFC"}),
    "gpt-4o": _Pre((_split(_O200K), _BYTE_LEVEL)),
    "llama4": _Pre((_split(_O200K), _BYTE_LEVEL)),
    "tekken": _Pre((_split(_TEKKEN), _BYTE_LEVEL), ignore_merges=True, adds_bos=True),
    "deepseek-v3": _THREE_SPLITS,
    "hunyuan-dense": _THREE_SPLITS,
}
"""llama.cpp's names (llama-vocab.cpp), with the expressions of the tokenizer.json that its own stand for: Granite 3 is
"refact", Granite 4 and OLMo 2 are "dbrx", Phi-4-mini is "gpt-4o", SmolLM3 "llama-bpe". Gemma, ERNIE, MiniCPM and Phi-3
have SentencePiece's kind, which needs no name."""


@dataclass(frozen=True)
class GgufTokenizer:
    """description: what tokenizer.json would hold; special: bos_token, eos_token and so on, as text; chat_template: its
    source, if there is one."""

    description: dict[str, Any]
    special: dict[str, str]
    chat_template: str | None


def read_tokenizer(file: GgufFile) -> GgufTokenizer:
    """UserError for a tokenizer that is damaged, or that the metadata does not describe exactly."""
    metadata = Metadata(file)
    tokens, types = metadata.texts("tokenizer.ggml.tokens"), metadata.wholes("tokenizer.ggml.token_type")
    if not tokens:
        raise metadata.error("it has no tokenizer (tokenizer.ggml.tokens)")
    if types is None or len(types) != len(tokens):
        raise metadata.error("it has no type for every token (tokenizer.ggml.token_type); take a newer file")
    model = metadata.text("tokenizer.ggml.model")
    if model == "gpt2":
        steps, adds_bos = _byte_level(metadata)
    elif model == "llama":
        steps, adds_bos = _sentencepiece(metadata, tokens, types), True
    else:
        raise metadata.error(f"its tokenizer ({model}) is not supported; supported are BPE: gpt2 and llama")
    vocabulary = _vocabulary(metadata, tokens, types)
    steps["model"] |= {"type": "BPE", "vocab": _without_added(vocabulary, types)}
    added = [
        {"id": number, "content": token, "special": kind in _SPECIAL, "normalized": False}
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in _ADDED
    ]
    special = {
        f"{name}_token": tokens[number]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if (number := metadata.whole(f"tokenizer.ggml.{key}_token_id")) is not None and 0 <= number < len(tokens)
    }
    return GgufTokenizer(
        {**steps, "added_tokens": added, "post_processor": _template(metadata, vocabulary, special, adds_bos)},
        special,
        metadata.text("tokenizer.chat_template"),
    )


def _vocabulary(metadata: Metadata, tokens: list[str], types: list[int]) -> dict[str, int]:
    """Without unused tokens: the converter fills the embedding's rows up with them."""
    vocabulary: dict[str, int] = {}
    for number, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind == UNUSED:
            continue
        if token in vocabulary:
            raise metadata.error(f"the tokens {vocabulary[token]} and {number} are the same text, {token[:40]!r}")
        vocabulary[token] = number
    return vocabulary


def _without_added(vocabulary: dict[str, int], types: list[int]) -> dict[str, int]:
    """The model's own tokens. Added ones that follow them without a gap get their ids by their order in tokenizer.json,
    so there they stand beside the vocabulary; others must stand in it."""
    own = {token: number for token, number in vocabulary.items() if types[number] not in _ADDED}
    end = max(own.values(), default=-1) + 1
    before = {token: number for token, number in vocabulary.items() if number < end}
    gapless = list(vocabulary.values()) == list(range(len(vocabulary)))
    return before if gapless else vocabulary


def _byte_level(metadata: Metadata) -> tuple[dict[str, Any], bool]:
    """The steps, and whether BOS is added where the metadata does not say."""
    name = metadata.text("tokenizer.ggml.pre")
    if name in (None, "default"):
        raise metadata.error(
            "it does not say how its tokenizer splits text (tokenizer.ggml.pre is missing or 'default'); take a file "
            "made by a newer converter"
        )
    if name not in _PRE:
        raise metadata.error(f"its pre-tokenizer {name!r} is not supported; supported are {', '.join(_PRE)}")
    pre = _PRE[name]
    merges = _stored_merges(metadata)
    if not merges:
        raise metadata.error("its tokenizer has no merges (tokenizer.ggml.merges)")
    steps = {
        "normalizer": pre.normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(pre.steps)},
        "decoder": _BYTE_LEVEL,
        "model": {"merges": merges, "ignore_merges": pre.ignore_merges},
    }
    return steps, pre.adds_bos


def _sentencepiece(metadata: Metadata, tokens: list[str], types: list[int]) -> dict[str, Any]:
    """The steps of transformers' LlamaTokenizer in its `legacy` form, which llama.cpp follows: a space before the text
    and after every special token."""
    if metadata.flag("tokenizer.ggml.remove_extra_whitespaces", False):
        raise metadata.error("its tokenizer removes white space, which is not supported")
    unknown = metadata.whole("tokenizer.ggml.unknown_token_id")
    unknown = types.index(UNKNOWN) if unknown is None and UNKNOWN in types else unknown
    prefix = metadata.flag("tokenizer.ggml.add_space_prefix", True)
    normalizers: list[dict[str, Any]] = [{"type": "Prepend", "prepend": MARK}] if prefix else []
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": MARK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [*normalizers, {"type": "Replace", "pattern": {"String": " "}, "content": MARK}],
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "merges": _stored_merges(metadata) or _scored_merges(metadata, tokens, types),
            "unk_token": tokens[unknown] if unknown is not None and 0 <= unknown < len(tokens) else None,
            "fuse_unk": True,
            "byte_fallback": BYTE in types,
        },
    }


def _stored_merges(metadata: Metadata) -> list[tuple[str, ...]]:
    return [tuple(line.split(" ")) for line in metadata.texts("tokenizer.ggml.merges") or []]


def _scored_merges(metadata: Metadata, tokens: list[str], types: list[int]) -> list[tuple[str, str]]:
    """Every way to put a token together from two others, best score first, as transformers converts SentencePiece's
    model (SentencePieceExtractor): equal scores by the whole's id, then by the parts'."""
    scores = metadata.numbers("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise metadata.error("its tokenizer has neither merges nor a score for every token (tokenizer.ggml.scores)")
    usual = [number for number, kind in enumerate(types) if kind == NORMAL]
    if len({scores[number] for number in usual}) < 2:
        raise metadata.error("its tokenizer's scores are all the same, so they do not say what merges first")
    ids = {tokens[number]: number for number in usual}
    merges = []
    for token, number in ids.items():
        halves = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        pairs = sorted((ids[left], ids[right]) for left, right in halves if left in ids and right in ids)
        merges += [(-scores[number], tokens[left], tokens[right]) for left, right in pairs]
    merges.sort(key=lambda merge: merge[0])
    return [(left, right) for _, left, right in merges]


def _template(
    metadata: Metadata, vocabulary: dict[str, int], special: dict[str, str], adds_bos: bool
) -> dict[str, Any] | None:
    """The post-processor: BOS before a text, EOS behind it, where the tokenizer adds them."""
    before = metadata.flag("tokenizer.ggml.add_bos_token", adds_bos)
    behind = metadata.flag("tokenizer.ggml.add_eos_token", False)
    single: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    used = []
    for name, wanted in (("bos_token", before), ("eos_token", behind)):
        if not wanted:
            continue
        if special.get(name) not in vocabulary:
            raise metadata.error(f"its tokenizer adds a {name} but names none")
        used.append(special[name])
        piece = {"SpecialToken": {"id": special[name], "type_id": 0}}
        single = [piece, *single] if name == "bos_token" else [*single, piece]
    if not used:
        return None
    tokens = {text: {"id": text, "ids": [vocabulary[text]], "tokens": [text]} for text in used}
    return {"type": "TemplateProcessing", "single": single, "special_tokens": tokens}
