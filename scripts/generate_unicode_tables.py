"""Writes runtime/base/unicode_tables.h by asking the installed `tokenizers` library about every code point.

The library's parts carry Unicode tables of different versions (Oniguruma for `\\p{L}`, Rust's own for digits, a crate
for NFC), and the C tokenizer has to agree with the library, not with a version of the standard. So nothing here comes
from Python's unicodedata. Run it in an environment with `tokenizers`; it takes about a minute:

    python scripts/generate_unicode_tables.py            # writes the header
    python scripts/generate_unicode_tables.py --check    # exit status 1 when the committed header differs
"""

from __future__ import annotations

import argparse
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

HEADER = Path(__file__).resolve().parent.parent / "runtime" / "base" / "unicode_tables.h"
CODE_POINTS = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
HANGUL = range(0xAC00, 0xD7A4)

LETTER, NUMBER, SPACE, DIGIT, WORD, NOT_INERT = 1, 2, 4, 8, 16, 32


def matched_by_regex(regex: str) -> set[int]:
    """Code points that one Oniguruma class matches."""
    text = "".join(map(chr, CODE_POINTS))
    matched = bytearray(b"\1" * len(CODE_POINTS))
    for _, (begin, end) in pre_tokenizers.Split(Regex(regex), "removed").pre_tokenize_str(text):
        matched[begin:end] = bytes(end - begin)
    return {point for point, hit in zip(CODE_POINTS, matched, strict=True) if hit}


def split_off_by_digits() -> set[int]:
    """Code points that the Digits pre-tokenizer isolates (Rust's char::is_numeric)."""
    text = "".join("a" + chr(point) for point in CODE_POINTS)
    pieces = pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str(text)
    return {ord(piece) for piece, _ in pieces if len(piece) == 1 and piece != "a"}


def added_token_probe(token: AddedToken, before: str, after: str) -> list[tuple[int, list[tuple[int, int]]]]:
    """Offsets of the added token's matches in `before + character + after`, for every code point."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.add_tokens([token])
    encodings = tokenizer.encode_batch([before + chr(point) + after for point in CODE_POINTS])
    return [(point, encoding.offsets) for point, encoding in zip(CODE_POINTS, encodings, strict=True)]


def words_of_regex_crate() -> set[int]:
    """Code points before which a single_word token is not one: the regex crate's `\\w`."""
    probe = added_token_probe(AddedToken("[T]", single_word=True, normalized=False), "[T]", "")
    return {point for point, offsets in probe if not offsets}


def spaces_of_regex_crate() -> set[int]:
    """Code points that a token with rstrip swallows: the regex crate's `\\s`."""
    probe = added_token_probe(AddedToken("[T]", rstrip=True, normalized=False), "[T]", "")
    return {point for point, offsets in probe if offsets[0] == (0, 4)}


def combining_classes(nfd: normalizers.NFD) -> dict[int, int]:
    """Canonical combining classes, by seeing which characters the library reorders around which.

    Only the order of the classes can be seen, not their numbers, so they are numbered 1, 2, 3 ... in that order.
    """

    def swaps(left: int, right: int) -> bool:
        return nfd.normalize_str(chr(left) + chr(right)) == chr(right) + chr(left)

    # Class 1 (U+0334) is the lowest and class 240 (U+0345) the highest of those in use.
    candidates = [
        point
        for point in CODE_POINTS
        if point not in HANGUL
        and nfd.normalize_str(chr(point)) == chr(point)
        and (swaps(point, 0x0334) or swaps(0x0345, point))
    ]
    ranked: list[list[int]] = []  # one list per class, ascending
    for point in candidates:
        low, high = 0, len(ranked)
        while low < high:
            middle = (low + high) // 2
            representative = ranked[middle][0]
            if swaps(representative, point):
                high = middle
            elif swaps(point, representative):
                low = middle + 1
            else:
                ranked[middle].append(point)
                break
        else:
            ranked.insert(low, [point])
    return {point: number for number, points in enumerate(ranked, 1) for point in points}


def normal_forms() -> tuple[dict[int, str], dict[tuple[int, int], int], dict[int, int]]:
    """Full canonical decompositions (without Hangul), composition pairs, combining classes."""
    nfd, nfc = normalizers.NFD(), normalizers.NFC()
    decompositions: dict[int, str] = {}
    compositions: dict[tuple[int, int], int] = {}
    for point in CODE_POINTS:
        if point in HANGUL:
            continue
        parts = nfd.normalize_str(chr(point))
        if parts == chr(point):
            continue
        decompositions[point] = parts
        if nfc.normalize_str(parts) == chr(point):
            first = nfc.normalize_str(parts[:-1])
            assert len(first) == 1, hex(point)
            assert nfc.normalize_str(first + parts[-1]) == chr(point), hex(point)
            compositions[ord(first), ord(parts[-1])] = point
    for point in HANGUL:
        lead, rest = divmod(point - 0xAC00, 588)
        vowel, tail = divmod(rest, 28)
        expected = chr(0x1100 + lead) + chr(0x1161 + vowel) + (chr(0x11A7 + tail) if tail else "")
        assert nfd.normalize_str(chr(point)) == expected
        assert nfc.normalize_str(expected) == chr(point)
    return decompositions, compositions, combining_classes(nfd)


GRAPHEMES = ("OTHER", "CR", "LF", "CONTROL", "EXTEND", "JOINER", "SPACING", "PREPEND", "HANGUL_L", "HANGUL_V",
             "HANGUL_T", "HANGUL_LV", "HANGUL_LVT", "PICTURE", "CONSONANT", "CONJUNCT", "LINKER")  # fmt: skip
GRAVE, ACUTE, ZERO_WIDTH_JOINER, COPYRIGHT = "\u0300", "\u0301", "\u200d", "\u00a9"
L, V, T, KA, VIRAMA = "\u1100", "\u1160", "\u11a8", "\u0915", "\u094d"


def counter() -> normalizers.Normalizer:
    """A Precompiled normalizer that turns every character but CR and LF into "Y".

    Such a normalizer replaces a grapheme cluster of at most five bytes as a whole, and of a longer one each character,
    so the number of Ys tells what belongs together. Its trie is a double array in Darts' layout: a node at place p has
    the child of byte c at p ^ offset ^ c. Nodes of one kind (so many bytes to come) share a block of 256 places where
    the low bytes of their places are the same."""
    blocks: list[list[int]] = [[0] * 256, [1 << 31] * 256]
    known: dict[tuple[int, int], int] = {}

    def unit(byte: int, block: int, place: int, coming: int) -> int:
        """Of the node behind `byte` at this place of a block, with so many bytes to come."""
        if coming == 0:
            return byte | 1 << 8 | 1 << 9 | (block ^ 1) << 10
        return byte | 1 << 9 | (block ^ block_of(coming, place)) << 10

    def block_of(coming: int, low: int) -> int:
        if (coming, low) not in known:
            known[coming, low] = number = len(blocks)
            blocks.append([0] * 256)
            for byte in range(0x80, 0xC0):
                blocks[number][low ^ byte] = unit(byte, number, low ^ byte, coming - 1)
        return known[coming, low]

    for byte in [*range(1, 0x80), *range(0xC2, 0xF5)]:
        if byte not in (0x0A, 0x0D):
            coming = 0 if byte < 0x80 else 1 if byte < 0xE0 else 2 if byte < 0xF0 else 3
            blocks[0][byte] = unit(byte, 0, byte, coming)
    units = struct.pack(f"<{256 * len(blocks)}I", *(value for block in blocks for value in block))
    return normalizers.Precompiled(struct.pack("<I", len(units)) + units + b"Y\0")


def grapheme_classes() -> dict[int, int]:
    """Of each code point its class of GRAPHEMES; without Hangul syllables and what is OTHER.

    What cannot show in a cluster of at most five bytes (pairs of flags) is not asked for."""
    count = counter()

    def found(pattern: str, letters: int, characters: set[str]) -> set[str]:
        """The characters with which the pattern gives this many Ys."""
        ordered = sorted(characters)
        lines = count.normalize_str("\n".join(pattern.format(character) for character in ordered)).split("\n")
        return {character for character, line in zip(ordered, lines, strict=True) if len(line) == letters}

    everywhere = {chr(point) for point in CODE_POINTS[1:]} - {"\r", "\n"}
    joins_behind = found("a{}", 1, everywhere)
    joins_before = found("{}a", 1, everywhere)
    rest = everywhere - joins_behind - joins_before
    control = found(f"{{}}{GRAVE}{ACUTE}", 2, rest)
    rest -= control
    before_l, before_v, before_t = (found(f"{{}}{jamo}{GRAVE}", 3, rest) for jamo in (L, V, T))
    vowels = before_v - before_l
    behind_v = found(f"{V}{{}}{GRAVE}", 3, before_t)
    kinds = {
        "CONTROL": control,
        "PREPEND": joins_before,
        "HANGUL_L": before_l,
        "HANGUL_V": vowels & behind_v,
        "HANGUL_LV": vowels - behind_v,
        "HANGUL_T": (before_t - vowels) & behind_v,
        "HANGUL_LVT": before_t - vowels - behind_v,
        "PICTURE": found(f"{{}}{ZERO_WIDTH_JOINER}{COPYRIGHT}{GRAVE}", 4, rest),
        "CONSONANT": found(f"{{}}{VIRAMA}{KA}{GRAVE}", 4, rest),
        "SPACING": joins_behind,
        "EXTEND": found(f"{COPYRIGHT}{{}}{ZERO_WIDTH_JOINER}{COPYRIGHT}{GRAVE}", 5, joins_behind),
        "CONJUNCT": found(f"{KA}{VIRAMA}{{}}{KA}{GRAVE}", 5, joins_behind),
        "LINKER": found(f"{KA}{{}}{KA}{GRAVE}", 4, joins_behind),
        "JOINER": {ZERO_WIDTH_JOINER},
        "CR": {"\r"},
        "LF": {"\n"},
    }
    classes = {}
    for kind, characters in kinds.items():
        classes |= {ord(character): GRAPHEMES.index(kind) for character in characters}
    syllables = {point: "HANGUL_LVT" if (point - 0xAC00) % 28 else "HANGUL_LV" for point in HANGUL}
    assert all(classes.pop(point) == GRAPHEMES.index(kind) for point, kind in syllables.items())
    return classes


def ranges(values: dict[int, int]) -> list[tuple[int, int]]:
    """(first code point, value) wherever the value changes, from 0 on; absent code points have value 0."""
    changes: list[tuple[int, int]] = []
    for point in range(0x110000):
        value = values.get(point, 0)
        if not changes or changes[-1][1] != value:
            changes.append((point, value))
    return changes


def rows(items: Iterable[str], width: int = 120) -> str:
    """Array elements, as many per line as fit."""
    lines, line = [], " "
    for item in items:
        if len(line) + len(item) + 2 > width:
            lines.append(line)
            line = " "
        line += f" {item},"
    return "\n".join([*lines, line])


def header() -> str:
    """The text of unicode_tables.h."""
    decompositions, compositions, classes = normal_forms()
    spaces = matched_by_regex(r"\s")
    assert spaces == spaces_of_regex_crate(), "the two regex engines differ in \\s: give each its own bit"
    hangul_parts = [*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]
    # What NFC may change, or combine with what stands before it.
    not_inert = {*classes, *hangul_parts, *(second for _, second in compositions)}
    nfc = normalizers.NFC()
    not_inert |= {point for point in decompositions if nfc.normalize_str(chr(point)) != chr(point)}
    bits: dict[int, int] = {}
    for bit, points in (
        (LETTER, matched_by_regex(r"\p{L}")),
        (NUMBER, matched_by_regex(r"\p{N}")),
        (SPACE, spaces),
        (DIGIT, split_off_by_digits()),
        (WORD, words_of_regex_crate()),
        (NOT_INERT, not_inert),
    ):
        for point in points:
            bits[point] = bits.get(point, 0) | bit

    pool = ""
    records = []
    for point, parts in sorted(decompositions.items()):
        at = pool.find(parts)
        if at < 0:
            at, pool = len(pool), pool + parts
        records.append((point, len(parts) << 16 | at))
    assert len(pool) < 1 << 16
    assert max(len(parts) for parts in decompositions.values()) <= 4
    property_ranges, class_ranges, grapheme_ranges = ranges(bits), ranges(classes), ranges(grapheme_classes())
    numbers = "\n".join(f"#define MB_GRAPHEME_{name} {number}" for number, name in enumerate(GRAPHEMES))
    pairs = sorted((first, second, composed) for (first, second), composed in compositions.items())
    version = tokenizers.__version__
    return f"""/* Generated by scripts/generate_unicode_tables.py from tokenizers {version}. Do not edit. */
#ifndef MB_BASE_UNICODE_TABLES_H
#define MB_BASE_UNICODE_TABLES_H

#include <stdint.h>

#define MB_UNICODE_LETTER {LETTER}
#define MB_UNICODE_NUMBER {NUMBER}
#define MB_UNICODE_SPACE {SPACE}
#define MB_UNICODE_DIGIT {DIGIT}
#define MB_UNICODE_WORD {WORD}
#define MB_UNICODE_NOT_INERT {NOT_INERT}

/* Grapheme clusters. JOINER: U+200D. PICTURE: Extended_Pictographic. CONSONANT, CONJUNCT, LINKER: the values of
 * Indic_Conjunct_Break; the last two are EXTEND as well. */
{numbers}

/* clang-format off */

/* Properties: first code point << 8 | bits, wherever they change.
 * LETTER, NUMBER, SPACE: Oniguruma's \\p{{L}}, \\p{{N}}, \\s. DIGIT: what the Digits pre-tokenizer isolates (Rust's
 * is_numeric). WORD: the regex crate's \\w (its \\s equals SPACE). NOT_INERT: NFC may change the character, or join it
 * to what stands before it. */
#define MB_UNICODE_RANGES {len(property_ranges)}
static const uint32_t mb_unicode_ranges[MB_UNICODE_RANGES] = {{
{rows(f"0x{first << 8 | value:x}" for first, value in property_ranges)}
}};

/* The same for ASCII, looked up directly. */
static const uint8_t mb_unicode_ascii[128] = {{
{rows(str(bits.get(point, 0)) for point in range(128))}
}};

/* Canonical combining classes, numbered in their order: first code point << 8 | class, wherever it changes. */
#define MB_COMBINING_RANGES {len(class_ranges)}
static const uint32_t mb_combining_ranges[MB_COMBINING_RANGES] = {{
{rows(f"0x{first << 8 | value:x}" for first, value in class_ranges)}
}};

/* Classes of grapheme clusters, without Hangul syllables: first code point << 8 | class, wherever it changes. */
#define MB_GRAPHEME_RANGES {len(grapheme_ranges)}
static const uint32_t mb_grapheme_ranges[MB_GRAPHEME_RANGES] = {{
{rows(f"0x{first << 8 | value:x}" for first, value in grapheme_ranges)}
}};

/* Full canonical decompositions: code point, then length << 16 | place in the pool. */
#define MB_DECOMPOSITIONS {len(records)}
static const uint32_t mb_decompositions[MB_DECOMPOSITIONS][2] = {{
{rows(f"{{0x{point:x}, 0x{place:x}}}" for point, place in records)}
}};

static const uint32_t mb_decomposition_pool[{len(pool)}] = {{
{rows(f"0x{ord(character):x}" for character in pool)}
}};

/* Canonical compositions: first, second, composed; sorted. */
#define MB_COMPOSITIONS {len(pairs)}
static const uint32_t mb_compositions[MB_COMPOSITIONS][3] = {{
{rows(f"{{0x{first:x}, 0x{second:x}, 0x{composed:x}}}" for first, second, composed in pairs)}
}};

/* clang-format on */

#endif
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the committed header is up to date")
    check = parser.parse_args().check
    text = header()
    if check:
        return 0 if HEADER.exists() and HEADER.read_text() == text else 1
    HEADER.write_text(text)
    print(f"{HEADER}: {len(text)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
