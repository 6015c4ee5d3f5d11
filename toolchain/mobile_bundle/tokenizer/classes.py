"""Which class transformers loads a tokenizer with, and what the classes that rebuild a tokenizer make of it.

Those take vocabulary, merges and post-processor from tokenizer.json, and their own normalizer, pre-tokenizer and
decoder. So Llama 2's tokenizer, of the class LlamaTokenizer, gives other ids than its tokenizer.json alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mobile_bundle.errors import InputError
from mobile_bundle.tokenizer.steps import MARK, QWEN2_EXPRESSION

GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast", "PreTrainedTokenizer", "PythonBackend", "BloomTokenizer", "")
"""Names of the class that takes tokenizer.json as it is; also used where no class is named."""

_AS_IT_IS = ("mistral", "granite", "ernie4_5", "olmo2", "phi3")
"""Families (model_type) that take tokenizer.json as it is, whatever class is named."""
_DEFAULTS = {"qwen3": "Qwen2Tokenizer", "gemma3_text": "GemmaTokenizer"}
"""The class of a family where none is named."""

_Json = dict[str, Any]


@dataclass(frozen=True)
class TokenizerClass:
    """rebuild(tokenizer.json's description, arguments): the description of the rebuilt tokenizer. defaults: special
    tokens where the files name none. adds_special_again: every special token is added once more, without its flags."""

    rebuild: Callable[[_Json, _Json], _Json]
    defaults: _Json = field(default_factory=dict)
    adds_special_again: bool = False


def tokenizer_class(settings: _Json, config: _Json, description: _Json) -> str:
    """The name of the class as AutoTokenizer chooses it, without "Fast"; "" for none.

    settings: of tokenizer_config.json; config: of config.json; description: of tokenizer.json."""
    named = settings.get("tokenizer_class") or config.get("tokenizer_class") or ""
    if not isinstance(named, str):
        raise InputError("tokenizer_config.json: tokenizer_class is not a name")
    name = named if named == "PreTrainedTokenizerFast" else named.removesuffix("Fast")
    family = config.get("model_type")
    if family in _AS_IT_IS:
        return ""
    if name == "LlamaTokenizer" and family != "qwen2" and _mentions(description, "ByteLevel"):
        return ""
    if family == "qwen2":
        return "Qwen2Tokenizer"
    return name or _DEFAULTS.get(str(family), "")


def _mentions(value: Any, word: str) -> bool:
    """Whether the word is a key or a string anywhere in the JSON value."""
    if isinstance(value, dict):
        return word in value or any(_mentions(child, word) for child in value.values())
    if isinstance(value, list):
        return any(_mentions(child, word) for child in value)
    return bool(value == word)


def _rebuilt(description: _Json, model: _Json, **steps: Any) -> _Json:
    own = description.get("model")
    taken = {key: own[key] for key in ("vocab", "merges") if key in own} if isinstance(own, dict) else {}
    post = description.get("post_processor")
    return {"model": {"type": "BPE"} | model | taken, "post_processor": post, "added_tokens": [], **steps}


def _flag(values: _Json, key: str, default: bool) -> bool:
    value = values.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InputError(f"tokenizer_config.json: {key} is {str(value)[:40]!r}, not true or false")
    return value


def _byte_level(description: _Json, values: _Json, normalizer: _Json | None) -> _Json:
    split = {"type": "ByteLevel", "add_prefix_space": _flag(values, "add_prefix_space", False), "use_regex": True}
    return _rebuilt(description, {}, normalizer=normalizer, pre_tokenizer=split, decoder={"type": "ByteLevel"})


def _gpt2(description: _Json, values: _Json) -> _Json:
    return _byte_level(description, values, None)


def _gpt_neox(description: _Json, values: _Json) -> _Json:
    return _byte_level(description, values, {"type": "NFC"}) | {"post_processor": None}


def _qwen2(description: _Json, values: _Json) -> _Json:
    split = {"type": "Split", "pattern": {"Regex": QWEN2_EXPRESSION}, "behavior": "Isolated", "invert": False}
    prefix = _flag(values, "add_prefix_space", False)
    level = {"type": "ByteLevel", "add_prefix_space": prefix, "use_regex": False}
    steps = {"type": "Sequence", "pretokenizers": [split, level]}
    nfc = {"type": "NFC"}
    return _rebuilt(description, {}, normalizer=nfc, pre_tokenizer=steps, decoder={"type": "ByteLevel"})


def _llama(description: _Json, values: _Json) -> _Json:
    prefix = _flag(values, "add_prefix_space", True)
    scheme = ("always" if _flag(values, "legacy", False) else "first") if prefix else "never"
    split = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": False}
    decoders: list[_Json] = [
        {"type": "Replace", "pattern": {"String": MARK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    model = {"fuse_unk": True, "byte_fallback": True}
    decoder = {"type": "Sequence", "decoders": decoders}
    return _rebuilt(description, model, normalizer=None, pre_tokenizer=split, decoder=decoder)


def _gemma(description: _Json, values: _Json) -> _Json:
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    decoders = [
        {"type": "Replace", "pattern": {"String": MARK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    unknown = values.get("unk_token", "<unk>")
    unknown = unknown.get("content") if isinstance(unknown, dict) else unknown
    model = {"fuse_unk": True, "byte_fallback": True, "unk_token": str(unknown)}
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    decoder = {"type": "Sequence", "decoders": decoders}
    return _rebuilt(description, model, normalizer=mark, pre_tokenizer=split, decoder=decoder)


_END = "<|endoftext|>"
CLASSES = {
    "GPT2Tokenizer": TokenizerClass(
        _gpt2, {"unk_token": _END, "bos_token": _END, "eos_token": _END, "pad_token": None}
    ),
    "GPTNeoXTokenizer": TokenizerClass(
        _gpt_neox, {"unk_token": _END, "bos_token": _END, "eos_token": _END, "pad_token": "<|padding|>"}
    ),
    "LlamaTokenizer": TokenizerClass(_llama, {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}),
    "GemmaTokenizer": TokenizerClass(
        _gemma,
        {
            "unk_token": "<unk>",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        },
    ),
    "Qwen2Tokenizer": TokenizerClass(
        _qwen2, {"unk_token": _END, "eos_token": _END, "pad_token": _END}, adds_special_again=True
    ),
}
"""The classes that rebuild a tokenizer, as far as the runtime can do what they do."""
