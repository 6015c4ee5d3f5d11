"""A tokenizer.json's tokens and merges, as ids and bytes."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass, field
from typing import Any

from mobile_bundle.errors import InputError, UnsupportedError
from mobile_bundle.tokenizer import steps as step
from mobile_bundle.tokenizer.byte_alphabet import BYTE_ALPHABET
from mobile_bundle.tokenizer.splits.character_sets import library
from mobile_bundle.tokenizer.steps import MARK, Steps

MAX_VOCABULARY = 1 << 21
MAX_MERGES = (1 << 22) - 1


@dataclass(frozen=True)
class Added:
    """An added token: `text` is what is looked for, in the normalised text when `normalized`."""

    id: int
    content: str  # as the files have it
    text: str
    decoded: str  # its string when it is decoded: normalised if it was listed so at any time
    normalized: bool
    strip_left: bool
    strip_right: bool
    word: bool


@dataclass
class Vocabulary:
    """`tokens`: the model's strings to ids. `merges`: (left, right) to (rank, merged id)."""

    tokens: dict[str, int]
    merges: dict[tuple[int, int], tuple[int, int]]
    added: list[Added]
    special: set[str]  # strings of special tokens
    unknown: int  # -1: none
    flags: int  # MB_TOKEN_* that depend on the model
    scores: dict[int, float] = field(default_factory=dict)  # of a Unigram model's tokens, by id; empty for BPE
    uncut: set[int] = field(default_factory=set)  # ASCII characters behind which a mark begins no word

    @property
    def size(self) -> int:
        """Highest id + 1."""
        return max([*self.tokens.values(), *(token.id for token in self.added)], default=-1) + 1

    def leave_out(self, rows: int) -> list[str]:
        """Drops the added tokens of ids from `rows` on, for which a model has no embedding. Returns their texts.

        Text that has them is then tokenised as any other; transformers fails on it."""
        known = set(self.tokens.values())
        out = [token for token in self.added if token.id >= rows and token.id not in known]
        self.added = [token for token in self.added if token.id < rows or token.id in known]
        self.special -= {text for token in out for text in (token.content, token.text, token.decoded)}
        return [token.content for token in out]

    def lookup(self, text: str) -> int | None:
        """The id of a token's string, None when there is none."""
        for token in self.added:
            if token.content == text:
                return token.id
        return self.tokens.get(text)


def read_vocabulary(description: dict[str, Any], steps: Steps) -> Vocabulary:
    """The vocabulary of a parsed tokenizer.json. Raises UserError for other models than BPE and Unigram, and for broken
    ones."""
    model = description.get("model")
    if isinstance(model, dict) and (model.get("type") == "Unigram" or isinstance(model.get("vocab"), list)):
        return _unigram(model, description, steps)
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or "merges" not in model:
        kind = model.get("type") if isinstance(model, dict) else None
        raise UnsupportedError(f"tokenizer.json: a model of type {kind!r} is not supported, only BPE and Unigram are")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise UnsupportedError(f"tokenizer.json: BPE with {key}={model[key]!r} is not supported")
    tokens: dict[str, int] = model["vocab"]
    _check_ids(tokens)
    if steps.decoder == step.DECODER_MARKS:
        raise UnsupportedError("tokenizer.json: a Metaspace decoder is supported with Unigram only, not with BPE")
    if len(set(tokens.values())) != len(tokens):
        raise InputError("tokenizer.json: two tokens of the vocabulary have the same id")
    added, special = _added(description, tokens, steps)
    merges = _merges(model["merges"], tokens)
    vocabulary = Vocabulary(tokens, merges, added, special, -1, 0)
    _model_flags(model, vocabulary, steps)
    return vocabulary


def _unigram(model: dict[str, Any], description: dict[str, Any], steps: Steps) -> Vocabulary:
    """The vocabulary of a Unigram model: a list of (token, score), whose places are the ids."""
    if model.get("type") != "Unigram":
        raise UnsupportedError("tokenizer.json: its tokens have scores, but its model is not taken for Unigram")
    if steps.flags & step.BYTE_LEVEL:
        raise UnsupportedError("tokenizer.json: a byte-level Unigram model is not supported")
    if model.get("alpha") is not None or model.get("nbest_size") is not None:
        raise UnsupportedError("tokenizer.json: a Unigram model that samples (alpha, nbest_size) is not supported")
    tokens: dict[str, int] = {}
    scores: dict[int, float] = {}
    for number, entry in enumerate(model["vocab"]):
        token, score = entry
        if not isinstance(token, str) or type(score) not in (int, float) or not math.isfinite(score):
            raise InputError(f"tokenizer.json: entry {number} of the vocabulary is not a token and its score")
        if token in tokens:
            raise InputError(f"tokenizer.json: the token {token[:40]!r} is in the vocabulary twice")
        tokens[token], scores[number] = number, float(score)
    unknown = model.get("unk_id")
    if type(unknown) is not int or not 0 <= unknown < len(tokens):
        raise UnsupportedError("tokenizer.json: a Unigram model without an unknown token (unk_id) is not supported")
    added, special = _added(description, tokens, steps)
    flags = step.UNIGRAM | (step.BYTE_FALLBACK if model.get("byte_fallback") else 0)
    return Vocabulary(tokens, {}, added, special, unknown, flags, scores)


def _added(description: dict[str, Any], tokens: dict[str, int], steps: Steps) -> tuple[list[Added], set[str]]:
    """The added tokens and the strings of special ones; checks that the whole vocabulary is of a size to handle."""
    added, special = _added_tokens(description.get("added_tokens") or [], tokens, steps)
    highest = max([*tokens.values(), *(token.id for token in added)], default=-1)
    if not 0 <= highest < MAX_VOCABULARY:
        raise UnsupportedError(
            f"tokenizer.json: a vocabulary of {highest + 1} tokens; from 1 to {MAX_VOCABULARY} are supported"
        )
    return added, special


def _check_ids(tokens: dict[str, Any]) -> None:
    for text, number in tokens.items():
        if type(number) is not int or not 0 <= number < MAX_VOCABULARY:
            raise InputError(
                f"tokenizer.json: the token {text[:40]!r} has the id {str(number)[:40]}: ids must be whole numbers "
                f"from 0 to {MAX_VOCABULARY - 1}"
            )


def _merges(listed: Any, tokens: dict[str, int]) -> dict[tuple[int, int], tuple[int, int]]:
    if not isinstance(listed, list):
        raise InputError("tokenizer.json: the merges are not a list")
    if listed and isinstance(listed[0], str):
        listed = [str(line).split(" ") for line in listed if not str(line).startswith("#version")]
    if len(listed) >= MAX_MERGES:
        raise UnsupportedError(
            f"tokenizer.json: {len(listed)} merges are more than the {MAX_MERGES} that are supported"
        )
    merges = {}
    for rank, pair in enumerate(listed):
        try:
            left, right = pair
            merges[tokens[left], tokens[right]] = (rank, tokens[left + right])
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"tokenizer.json: merge {rank} ({repr(pair)[:80]}) is not of two tokens that give a third"
            ) from None
    return merges


def _normalize(text: str, steps: Steps) -> str:
    flags = steps.flags
    if steps.charsmap:
        text = str(library().normalizers.Precompiled(steps.charsmap).normalize_str(text))
    changes = flags & (step.STRIP_LEFT | step.STRIP_RIGHT | step.SPACES_ONE | step.SPACES_MARK)
    if changes and (text != text.strip() or "  " in text):
        raise UnsupportedError(f"tokenizer.json: the added token {text[:40]!r} has spaces that the normalizer changes")
    if flags & step.NFC:
        text = unicodedata.normalize("NFC", text)
    if flags & step.PREPEND:
        text = MARK + text
    return text.replace(" ", MARK) if flags & step.REPLACE else text


def _added_tokens(listed: list[dict[str, Any]], tokens: dict[str, int], steps: Steps) -> tuple[list[Added], set[str]]:
    """Added tokens get their ids as the tokenizers library gives them, whatever the file says: the model's for what is
    in its vocabulary, else the next free number."""
    by_text: dict[str, int] = {}
    by_id: dict[int, Added] = {}
    special = set()
    following = len(tokens)
    for entry in listed:
        content = entry["content"]
        if not content:
            continue
        number = by_text.get(content, tokens.get(content))
        if number is None:
            number, following = following, following + 1
        normalized = bool(entry.get("normalized", not entry.get("special", False)))
        text = _normalize(content, steps) if normalized else content
        earlier = by_id.get(number)
        kept = not normalized and earlier is not None and earlier.content == content
        by_text[content] = number
        by_id[number] = Added(
            number,
            content,
            text,
            earlier.decoded if kept and earlier else text,
            normalized,
            bool(entry.get("lstrip")),
            bool(entry.get("rstrip")),
            bool(entry.get("single_word")),
        )
        if entry.get("special"):
            special.add(content)
    added = list(by_id.values())
    for token in added:
        if len(token.text.encode()) > 512:
            raise InputError(f"tokenizer.json: the added token {token.text[:40]!r}... is longer than 512 bytes")
    if len({(token.text, token.normalized) for token in added}) != len(added):
        raise InputError("tokenizer.json: two added tokens are the same text after normalisation")
    return added, special


def _model_flags(model: dict[str, Any], vocabulary: Vocabulary, steps: Steps) -> None:
    tokens = vocabulary.tokens
    if steps.flags & step.BYTE_LEVEL:
        complete = all(character in tokens for character in BYTE_ALPHABET)
        if model.get("ignore_merges"):
            vocabulary.flags |= step.IGNORE_MERGES
        if model.get("byte_fallback") and not complete:
            raise UnsupportedError("tokenizer.json: byte_fallback in a byte-level tokenizer is not supported")
    else:
        complete = False
        if model.get("ignore_merges"):
            raise UnsupportedError("tokenizer.json: ignore_merges is only supported in byte-level tokenizers")
        if model.get("byte_fallback"):
            vocabulary.flags |= step.BYTE_FALLBACK
            complete = all(f"<0x{byte:02X}>" in tokens for byte in range(256))
    if model.get("fuse_unk"):
        vocabulary.flags |= step.FUSE_UNKNOWN
    unknown = model.get("unk_token")
    if unknown is not None and not complete:
        if unknown not in tokens:
            raise InputError(f"tokenizer.json: the unknown token {str(unknown)[:40]!r} is not in the vocabulary")
        vocabulary.unknown = tokens[unknown]
    # Where unknown characters vanish, what stands before and after them can merge.
    uncut = _crossing(vocabulary, steps) if complete or vocabulary.unknown >= 0 else None
    if uncut is not None:
        vocabulary.flags |= step.CUT_WORDS | (step.UNCUT if uncut else 0)
        vocabulary.uncut = uncut


def _crossing(vocabulary: Vocabulary, steps: Steps) -> set[int] | None:
    """The ASCII characters behind which a merge crosses the place before a mark (in Gemma 3's vocabulary ">", for the
    sake of one token); everywhere else words may be cut there. None: nowhere."""
    if steps.flags & (step.BYTE_LEVEL | step.METASPACE_SPLIT) or MARK not in vocabulary.tokens:
        return None
    crossing = re.compile(f"([^{MARK}]){MARK}")
    strings = {number: text for text, number in vocabulary.tokens.items()}
    found = {ord(x) for _, merged in vocabulary.merges.values() for x in crossing.findall(strings[merged])}
    return found if max(found, default=0) < 128 else None


def token_bytes(text: str, steps: Steps) -> tuple[bytes, bool]:
    """What a token's string is decoded to, and whether it is a byte of the byte fallback."""
    if steps.flags & step.BYTE_LEVEL:
        if all(character in BYTE_ALPHABET for character in text):
            return bytes(BYTE_ALPHABET[character] for character in text), False
    elif steps.decoder != step.DECODER_MARKS and re.fullmatch(
        r"<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>", text
    ):  # Rust's number parser takes a plus sign
        return bytes([int(text[3:5], 16)]), True
    return text.encode(), False
