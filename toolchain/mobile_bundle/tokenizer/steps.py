"""The steps of a tokenizer.json besides its model: normalizer, pre-tokenizer, decoder, post-processor.

Each is recognised exactly or refused with a line that shows what is not known; nothing is approximated.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from mobile_bundle.errors import InputError, UserError
from mobile_bundle.tokenizer.charsmap import decode_charsmap
from mobile_bundle.tokenizer.splits import CompiledSplits, chain, compile_splits
from mobile_bundle.tokenizer.splits.step import GPT2_EXPRESSION

BYTE_LEVEL, NFC, PREPEND, REPLACE, PREFIX_SPACE, DIGITS, DIGIT_RUNS = (1 << bit for bit in range(7))
METASPACE, METASPACE_FIRST, METASPACE_ALWAYS, METASPACE_SPLIT, CUT_WORDS = (1 << bit for bit in range(7, 12))
IGNORE_MERGES, BYTE_FALLBACK, FUSE_UNKNOWN = (1 << bit for bit in range(12, 15))
UNIGRAM, STRIP_LEFT, STRIP_RIGHT, SPACES_ONE, SPACES_MARK, UNCUT, CHARSMAP = (1 << bit for bit in range(16, 23))
SPLIT_NONE, SPLIT_GPT2, SPLIT_LLAMA3, SPLIT_QWEN2, SPLIT_TABLES = range(5)
DECODER_BYTES, DECODER_METASPACE, DECODER_MARKS = 1, 2, 3

MARK = "\u2581"  # "▁"

_LLAMA3_STYLE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_EXPRESSION, QWEN2_EXPRESSION = (_LLAMA3_STYLE % digits for digits in (r"\p{N}{1,3}", r"\p{N}"))
REGULAR_EXPRESSIONS = {
    GPT2_EXPRESSION: SPLIT_GPT2,
    LLAMA3_EXPRESSION: SPLIT_LLAMA3,
    QWEN2_EXPRESSION: SPLIT_QWEN2,
}


@dataclass
class Steps:
    """What the steps come to; `flags` are MB_TOKEN_* of tokenizer_format.h."""

    flags: int = 0
    split: int = SPLIT_NONE
    splits: CompiledSplits | None = None  # with SPLIT_TABLES
    split_parts: list[dict[str, Any]] = field(default_factory=list)  # the parts that `splits` was compiled from
    charsmap: bytes = b""  # with CHARSMAP
    decoder: int = DECODER_BYTES
    strip: int = 0  # spaces taken from the left of a decoded text; with DECODER_MARKS 1: the first token's marks
    prefix: list[int] = field(default_factory=list)  # ids before an encoded text
    suffix: list[int] = field(default_factory=list)


def parse_steps(description: dict[str, Any]) -> Steps:
    """The steps of a parsed tokenizer.json. Raises UserError for what the runtime cannot do exactly."""
    steps = Steps()
    _pre_tokenizer(_before_mark(description), steps)
    _normalizer(_flatten(description.get("normalizer"), "normalizers"), steps)
    _decoder(_flatten(description.get("decoder"), "decoders"), steps)
    for processor in _flatten(description.get("post_processor"), "processors"):
        _post_processor(processor, steps)
    return steps


def _refuse(step: str, value: Any, reason: str = "is not one the runtime knows") -> UserError:
    shown = json.dumps(value, ensure_ascii=False)
    return InputError(
        f"tokenizer.json: this {step} {reason}: {shown[:400]}; supported are byte-level BPE, split by expressions, "
        "digits or punctuation, SentencePiece-style BPE and Unigram"
    )


def _flatten(step: Any, key: str) -> list[dict[str, Any]]:
    """A step as a list, Sequences taken apart."""
    if step is None:
        return []
    if not isinstance(step, dict):
        raise _refuse("step", step)
    if step.get("type") != "Sequence":
        return [step]
    return [part for inner in step.get(key, []) for part in _flatten(inner, key)]


def _before_mark(description: dict[str, Any]) -> list[dict[str, Any]]:
    """The pre-tokenizer. Gemma's splits at spaces, of which its normalizer leaves none: it does nothing."""
    parts = _flatten(description.get("pre_tokenizer"), "pretokenizers")
    normalizers = _flatten(description.get("normalizer"), "normalizers")
    spaces = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    return [] if parts == [spaces] and mark in normalizers else parts


def _add(steps: Steps, flag: int, step: str, value: Any) -> None:
    if steps.flags & flag:
        raise _refuse(step, value, "stands there twice")
    steps.flags |= flag


_SPACES = {"pattern": {"Regex": " {2,}"}}
_ORDER = ("Precompiled", "NFC", "Strip", "spaces", "others")
"""In which normalizers stand where there is one of the first, a Strip or a replacement of several spaces: the runtime's
order."""


def _normalizer(parts: list[dict[str, Any]], steps: Steps) -> None:
    places = []
    for part in parts:
        places.append(_ORDER.index(_place_of(part)))
        match part:
            case {"type": "Strip", "strip_left": bool(left), "strip_right": bool(right)}:
                _add(steps, STRIP_LEFT * left | STRIP_RIGHT * right, "normalizer", part)
            case {"type": "Replace", "content": " " | "\u2581" as content, **rest} if rest == _SPACES:
                _add(steps, SPACES_ONE if content == " " else SPACES_MARK, "normalizer", part)
            case {"type": "Precompiled"}:
                if part.get("precompiled_charsmap"):
                    _add(steps, CHARSMAP, "normalizer", part)
                    steps.charsmap = decode_charsmap(part["precompiled_charsmap"])
            case {"type": "NFC"}:
                _add(steps, NFC, "normalizer", part)
            case {"type": "Prepend", "prepend": "\u2581"} if not steps.flags & BYTE_LEVEL:
                _add(steps, PREPEND, "normalizer", part)
            case {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"} if not steps.flags & BYTE_LEVEL:
                _add(steps, REPLACE, "normalizer", part)
            case _:
                raise _refuse("normalizer", part)
    ordered = CHARSMAP | STRIP_LEFT | STRIP_RIGHT | SPACES_ONE | SPACES_MARK
    if steps.flags & ordered and places != sorted(places):
        raise _refuse("normalizer", parts, "does its steps in an order that the runtime does not")
    if steps.flags & STRIP_LEFT and steps.flags & METASPACE_FIRST:
        raise _refuse("normalizer", parts, "moves the start of the text, where the pre-tokenizer puts its mark")
    if steps.flags & PREPEND and steps.flags & METASPACE_FIRST:
        raise _refuse("normalizer", parts, "puts a mark before the text, and so does the pre-tokenizer")


def _place_of(part: dict[str, Any]) -> str:
    if part.get("type") in ("Precompiled", "NFC", "Strip"):
        return str(part["type"])
    return "spaces" if part.get("pattern") == _SPACES["pattern"] else "others"


def _pre_tokenizer(parts: list[dict[str, Any]], steps: Steps) -> None:
    if not parts:
        return
    if not _known_split(parts, steps):
        _compiled_split(parts, steps)


def _known_split(parts: list[dict[str, Any]], steps: Steps) -> bool:
    """Whether the runtime has code of its own for the parts; `steps` is changed only then."""
    if [part.get("type") for part in parts] == ["Metaspace"]:
        _metaspace(parts[0], steps)
        return True
    *before, last = parts
    if last.get("type") != "ByteLevel":
        return False
    flags = BYTE_LEVEL
    uses_regex = last.get("use_regex", True)
    split = SPLIT_GPT2 if uses_regex else SPLIT_NONE
    if last.get("add_prefix_space", True):
        flags |= PREFIX_SPACE
    for position, part in enumerate(before):
        match part:
            case {"type": "Digits"} if position == 0:
                flags |= DIGITS if part.get("individual_digits", False) else DIGIT_RUNS
            case {"type": "Split"} if position == len(before) - 1 and not uses_regex and not flags & PREFIX_SPACE:
                split = _known_expression(part)
                if split == SPLIT_NONE:
                    return False
            case _:
                return False
    steps.flags |= flags
    steps.split = split
    return True


def _known_expression(part: dict[str, Any]) -> int:
    """SPLIT_NONE: not one that the runtime has code for."""
    # The expressions leave no character over, so these behaviours all keep every match as a piece.
    if part.get("behavior") != "Isolated" and not (part.get("behavior") == "Removed" and part.get("invert")):
        return SPLIT_NONE
    pattern = part.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    return REGULAR_EXPRESSIONS.get(regex, SPLIT_NONE) if isinstance(regex, str) else SPLIT_NONE


def _compiled_split(parts: list[dict[str, Any]], steps: Steps) -> None:
    """Any chain of splits, by tables; last of all ByteLevel or Metaspace, or neither."""
    before = parts[:-1] if parts[-1].get("type") == "Metaspace" else parts
    found = chain(before)
    if found is None:
        if any(part.get("type") == "ByteLevel" and part.get("add_prefix_space", True) for part in before):
            raise _refuse("pre-tokenizer", parts, "puts a space before every word")
        raise _refuse("pre-tokenizer", parts)
    splits, byte_level = found
    if before is not parts:
        if byte_level:
            raise _refuse("pre-tokenizer", parts)
        _metaspace(parts[-1], steps)
    steps.flags |= BYTE_LEVEL if byte_level else 0
    if splits:
        steps.splits = compile_splits(splits)
        steps.split, steps.split_parts = SPLIT_TABLES, before


def _metaspace(part: dict[str, Any], steps: Steps) -> None:
    scheme = part.get("prepend_scheme", "always")
    if part.get("add_prefix_space") is False:
        scheme = "never"
    if part.get("replacement") != MARK or scheme not in ("first", "always", "never"):
        raise _refuse("pre-tokenizer", part)
    steps.flags |= METASPACE
    steps.flags |= {"first": METASPACE_FIRST, "always": METASPACE_ALWAYS, "never": 0}[scheme]
    if part.get("split") is not False:
        steps.flags |= METASPACE_SPLIT


def _decoder(parts: list[dict[str, Any]], steps: Steps) -> None:
    kinds = [part.get("type") for part in parts]
    if steps.flags & BYTE_LEVEL:
        if kinds != ["ByteLevel"]:
            raise _refuse("decoder", parts, "does not fit a byte-level tokenizer")
        return
    if kinds == ["Metaspace"]:
        steps.decoder = DECODER_MARKS
        decoded = Steps()
        _metaspace(parts[0], decoded)
        steps.strip = 1 if decoded.flags & (METASPACE_FIRST | METASPACE_ALWAYS) else 0
        return
    steps.decoder = DECODER_METASPACE
    if kinds not in (["Replace", "ByteFallback", "Fuse"], ["Replace", "ByteFallback", "Fuse", "Strip"]):
        raise _refuse("decoder", parts)
    if parts[0].get("pattern") != {"String": MARK} or parts[0].get("content") != " ":
        raise _refuse("decoder", parts[0])
    if len(parts) == 4:
        strip = parts[3]
        start = strip.get("start")
        if strip.get("content") != " " or strip.get("stop") != 0 or type(start) is not int or not 0 <= start <= 16:
            raise _refuse("decoder", strip)
        steps.strip = start


def _template_ids(part: dict[str, Any], name: str) -> list[int]:
    """The ids that a template puts where it names a special token."""
    ids: list[int] = part["special_tokens"][name]["ids"]
    if not isinstance(ids, list) or not all(type(number) is int and 0 <= number < 1 << 31 for number in ids):
        raise InputError(f"tokenizer.json: the post-processor's ids of {name[:40]!r} are not a list of token ids")
    return ids


def _post_processor(part: dict[str, Any], steps: Steps) -> None:
    if part.get("type") == "ByteLevel":  # changes offsets only
        return
    if part.get("type") != "TemplateProcessing":
        raise _refuse("post-processor", part)
    prefix: list[int] = []
    suffix: list[int] = []
    seen = False
    for piece in part["single"]:
        match piece:
            case {"SpecialToken": {"id": name}}:
                (suffix if seen else prefix).extend(_template_ids(part, name))
            case {"Sequence": {"id": "A"}} if not seen:
                seen = True
            case _:
                raise _refuse("post-processor", part["single"])
    if not seen:
        raise _refuse("post-processor", part["single"], "leaves the text out")
    steps.prefix = prefix + steps.prefix
    steps.suffix = steps.suffix + suffix
