"""Writes runtime/base/unicode_tables.h by asking the installed `tokenizers` library about every code point.

The library's parts carry Unicode tables of different versions (Oniguruma for `\\p{L}`, Rust's own for digits, a crate
for NFC), and the C tokenizer has to agree with the library, not with a version of the standard. So nothing here comes
from Python's unicodedata. Run it in an environment with `tokenizers`; it takes about a minute:

    python scripts/generate_unicode_tables.py            # writes the header
    python scripts/generate_unicode_tables.py --check    # exit status 1 when the committed header differs
"""

from __future__ import annotations

import argparse
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
    property_ranges, class_ranges = ranges(bits), ranges(classes)
    pairs = sorted((first, second, composed) for (first, second), composed in compositions.items())
    version = tokenizers.__version__
    return f"""/* Generated by scripts/generate_unicode_tables.py from tokenizers {version}. Do not edit. */
#ifndef MOBILE_BUNDLE_UNICODE_TABLES_H
#define MOBILE_BUNDLE_UNICODE_TABLES_H

#include <stdint.h>

#define MB_UNICODE_LETTER {LETTER}
#define MB_UNICODE_NUMBER {NUMBER}
#define MB_UNICODE_SPACE {SPACE}
#define MB_UNICODE_DIGIT {DIGIT}
#define MB_UNICODE_WORD {WORD}
#define MB_UNICODE_NOT_INERT {NOT_INERT}

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
