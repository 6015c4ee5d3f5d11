"""Writes tokenizer.bin; the layout is in runtime/include/mobile_bundle/tokenizer_format.h."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.chat_template.compile import ChatTemplate
from mobile_bundle.errors import InputError
from mobile_bundle.tokenizer import steps as step
from mobile_bundle.tokenizer.byte_alphabet import BYTE_ALPHABET
from mobile_bundle.tokenizer.steps import Steps
from mobile_bundle.tokenizer.vocabulary import Vocabulary, token_bytes

MAGIC, VERSION = b"MBTOKENS", 1
IS_SPECIAL, IS_BYTE, IS_ABSENT = 1 << 31, 1 << 30, 1 << 29
MAX_PROBES = 256
_ENLARGEMENTS = 4  # of a hash table, by half each: at most 7.6 slots an entry
HEADER_BYTES = 256
CHAT_PROGRAM = 1 << 15


def write_tokenizer(vocabulary: Vocabulary, steps: Steps, chat: ChatTemplate | None) -> bytes:
    """The bytes of tokenizer.bin. Raises UserError when the vocabulary is beyond what the format holds."""
    texts = _texts(vocabulary)
    offsets, blob, longest = _token_bytes(texts, vocabulary, steps)
    flags = steps.flags | vocabulary.flags | (CHAT_PROGRAM if chat else 0)
    merge_table, merge_probes = _merge_table(vocabulary)
    merged, merge_first = _merged(vocabulary)
    strings, string_probes = _string_table(texts, vocabulary, steps)
    added_table, added_bytes, added_raw = _added(vocabulary)
    template = np.array([*steps.prefix, *steps.suffix], np.int32)
    if template.size and not 0 <= template.min() <= template.max() < vocabulary.size:
        raise InputError("tokenizer.json: the post-processor's ids are not in the vocabulary")
    if max(len(steps.prefix), len(steps.suffix)) > 64:
        raise InputError("tokenizer.json: the post-processor adds more than 64 ids")
    sections = [
        offsets.tobytes(),
        blob,
        _symbols(vocabulary, steps).tobytes(),
        merge_table.tobytes(),
        merged.tobytes(),
        strings.tobytes(),
        added_table,
        added_bytes,
        template.tobytes(),
        chat.section if chat else b"",
        chat.texts if chat else b"",
        steps.splits.section if steps.splits else b"",
        _scores(vocabulary),
        _trie(vocabulary),
        steps.charsmap,
    ]
    spans, body = [], bytearray()
    for section in sections:
        spans += [HEADER_BYTES + len(body), len(section)]
        body += section + bytes(-len(section) % 8)
    if not steps.charsmap:
        spans[-2:] = [0, 0]  # as in files from before there was this section
    numbers = [
        HEADER_BYTES + len(body),
        vocabulary.size,
        flags,
        steps.split,
        steps.decoder,
        steps.strip,
        vocabulary.unknown & 0xFFFFFFFF,
        longest,
        max((rank for rank, _ in vocabulary.merges.values()), default=-1) + 1,
        len(merge_table),
        merge_probes,
        merge_first,
        len(strings),
        string_probes,
        len(vocabulary.added),
        added_raw,
        len(steps.prefix),
        len(steps.suffix),
    ]

    uncut = [sum(1 << code % 32 for code in vocabulary.uncut if code // 32 == word) for word in range(4)]

    def header(checksum: int) -> bytes:
        values = [VERSION, checksum, *numbers, *spans, *uncut]
        return (MAGIC + struct.pack(f"<{len(values)}I", *values)).ljust(HEADER_BYTES, b"\0")

    return header(zlib.crc32(header(0) + body)) + bytes(body)


def _texts(vocabulary: Vocabulary) -> dict[int, str]:
    """Every id's string as the decoder sees it."""
    texts = {number: text for text, number in vocabulary.tokens.items()}
    return texts | {token.id: token.decoded for token in vocabulary.added}


def _token_bytes(texts: dict[int, str], vocabulary: Vocabulary, steps: Steps) -> tuple[NDArray[np.uint32], bytes, int]:
    offsets = np.zeros(vocabulary.size + 1, np.uint32)
    blob, longest = bytearray(), 0
    for number in range(vocabulary.size):
        marks = len(blob)
        text = texts.get(number)
        if text is None:
            marks |= IS_ABSENT
        else:
            try:
                data, is_byte = token_bytes(text, steps)
            except UnicodeEncodeError:
                raise InputError(f"tokenizer.json: token {number} is not valid Unicode") from None
            blob += data
            longest = max(longest, len(data))
            marks |= IS_BYTE * is_byte | IS_SPECIAL * (text in vocabulary.special)
        offsets[number] = marks
    if len(blob) >= 1 << 29:
        raise InputError("tokenizer.json: the tokens are more than 512 MB")
    offsets[vocabulary.size] = len(blob)
    return offsets, bytes(blob), longest


def _symbols(vocabulary: Vocabulary, steps: Steps) -> NDArray[np.int32]:
    symbols = np.full(256, -1, np.int32)
    if steps.flags & step.BYTE_LEVEL:
        for character, byte in BYTE_ALPHABET.items():
            symbols[byte] = vocabulary.tokens.get(character, -1)
    else:
        for byte in range(256):
            symbols[byte] = vocabulary.tokens.get(f"<0x{byte:02X}>", -1)
    return symbols


def _mix(hashes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return (hashes ^ hashes >> np.uint32(15)) * np.uint32(0x2C1B3C6D)


def pair_hash(left: NDArray[np.uint32], right: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """mb_token_pair_hash, elementwise."""
    hashes = _mix(left * np.uint32(0x9E3779B1) ^ right * np.uint32(0x85EBCA77))
    hashes = (hashes ^ hashes >> np.uint32(13)) * np.uint32(0x297A2D39)
    return hashes ^ hashes >> np.uint32(16)


def string_hash(text: bytes) -> int:
    """mb_token_string_hash."""
    value = 0x811C9DC5
    for byte in text:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    value = (value ^ value >> 15) * 0x2C1B3C6D & 0xFFFFFFFF
    return value ^ value >> 16


def _place(hashes: NDArray[np.uint32], what: str) -> tuple[list[int], int, int]:
    """Linear probing: the slot of every entry, the number of slots, the longest search.

    Raises UserError when the hashes fall together, which they only do when somebody chose them so: the reader searches
    no further than MAX_PROBES slots."""
    count = len(hashes)
    slots = count + count // 2 + 1
    for _ in range(_ENLARGEMENTS + 1):
        placed = _try_place((hashes.astype(np.uint64) * np.uint64(slots) >> np.uint64(32)).tolist(), slots)
        if placed is not None:
            places, probes = placed
            # A search for what is not there ends one slot later, at an empty one.
            return places, slots, probes + 1
        slots += slots // 2
    raise InputError(
        f"tokenizer.json: too many {what} have the same hash; it may be an attack on memory; use another tokenizer"
    )


def _try_place(first: list[int], slots: int) -> tuple[list[int], int] | None:
    """(the slot of every entry, the longest search); None when a search gets as long as MAX_PROBES."""
    taken = bytearray(slots)
    places, probes = [], 0
    for slot in first:
        steps = 1
        while taken[slot]:
            slot = slot + 1 if slot + 1 < slots else 0
            steps += 1
            if steps == MAX_PROBES:
                return None
        taken[slot] = 1
        places.append(slot)
        probes = max(probes, steps)
    return places, probes


def _merge_table(vocabulary: Vocabulary) -> tuple[NDArray[np.uint64], int]:
    if not vocabulary.merges:
        return np.empty(0, np.uint64), 0
    pairs = np.array(list(vocabulary.merges), np.uint64)
    ranks = np.array([rank for rank, _ in vocabulary.merges.values()], np.uint64)
    hashes = pair_hash(pairs[:, 0].astype(np.uint32), pairs[:, 1].astype(np.uint32))
    places, slots, probes = _place(hashes, "merges")
    table = np.full(slots, np.iinfo(np.uint64).max, np.uint64)
    table[places] = pairs[:, 0] << np.uint64(43) | pairs[:, 1] << np.uint64(22) | ranks
    return table, probes


def _merged(vocabulary: Vocabulary) -> tuple[NDArray[np.uint32], int]:
    """The merges' results by rank, and the first one's when they are consecutive (then there is no table)."""
    by_rank = sorted(vocabulary.merges.values())
    if not by_rank:
        return np.empty(0, np.uint32), 0
    first = by_rank[0][1] - by_rank[0][0]
    if first >= 0 and all(merged == first + rank for rank, merged in by_rank):
        return np.empty(0, np.uint32), first
    table = np.zeros(by_rank[-1][0] + 1, np.uint32)
    for rank, merged in by_rank:
        table[rank] = merged
    return table, 0


def _string_table(texts: dict[int, str], vocabulary: Vocabulary, steps: Steps) -> tuple[NDArray[np.int32], int]:
    wanted: list[str] = []
    if steps.flags & step.BYTE_LEVEL:
        if vocabulary.flags & step.IGNORE_MERGES:
            wanted = [text for text in vocabulary.tokens if all(character in BYTE_ALPHABET for character in text)]
    elif not vocabulary.flags & step.UNIGRAM:
        wanted = [text for text in vocabulary.tokens if len(text) == 1]
    if not wanted:
        return np.empty(0, np.int32), 0
    for text in wanted:
        if texts[vocabulary.tokens[text]] != text:
            raise InputError(f"tokenizer.json: the token {text!r} is also an added token that normalisation changes")
    hashes = np.array([string_hash(token_bytes(text, steps)[0]) for text in wanted], np.uint32)
    places, slots, probes = _place(hashes, "tokens")
    table = np.full(slots, -1, np.int32)
    table[places] = [vocabulary.tokens[text] for text in wanted]
    return table, probes


_UNKNOWN_PENALTY = 10.0
"""What an unknown character costs beyond the worst token (SentencePiece's kUnkPenalty)."""


def _scores(vocabulary: Vocabulary) -> bytes:
    if not vocabulary.flags & step.UNIGRAM:
        return b""
    scores = np.zeros(vocabulary.size + 1)
    scores[list(vocabulary.scores)] = list(vocabulary.scores.values())
    scores[-1] = min(vocabulary.scores.values()) - _UNKNOWN_PENALTY
    return scores.tobytes()


def _trie(vocabulary: Vocabulary) -> bytes:
    """Nodes level by level, so that a node's children lie side by side."""
    if not vocabulary.flags & step.UNIGRAM:
        return b""
    try:
        tokens = sorted((text.encode(), number) for text, number in vocabulary.tokens.items() if text)
    except UnicodeEncodeError:
        raise InputError("tokenizer.json: a token is not valid Unicode") from None
    labels, ids, first_child = bytearray(1), [-1], []
    level = [(0, len(tokens))]  # of every node, the tokens that begin with it
    depth = 0
    while level:
        following = []
        for begin, end in level:
            first_child.append(len(labels))
            at = begin + (begin < end and len(tokens[begin][0]) == depth)
            while at < end:
                label, start = tokens[at][0][depth], at
                while at < end and tokens[at][0][depth] == label:
                    at += 1
                labels.append(label)
                ids.append(tokens[start][1] if len(tokens[start][0]) == depth + 1 else -1)
                following.append((start, at))
        level, depth = following, depth + 1
    nodes = len(labels)
    first_child.append(nodes)
    children, numbers = np.array(first_child, np.uint32), np.array(ids, np.int32)
    return struct.pack("<I", nodes) + children.tobytes() + numbers.tobytes() + bytes(labels)


def _added(vocabulary: Vocabulary) -> tuple[bytes, bytes, int]:
    table, texts = bytearray(), bytearray()
    for token in sorted(vocabulary.added, key=lambda token: (token.normalized, token.text.encode())):
        text = token.text.encode()
        flags = token.strip_left | token.strip_right << 1 | token.word << 2
        table += struct.pack("<4I", token.id, flags, len(texts), len(text))
        texts += text
    return bytes(table), bytes(texts), sum(not token.normalized for token in vocabulary.added)
