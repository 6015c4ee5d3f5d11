"""Texts that tokenizers find hard."""

from __future__ import annotations

# ruff: noqa: RUF001 (characters that look alike are what is tested)
import random

ODD = [
    *"'’ \t\r\n\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000\u200b\ufeff\u180e",
    *"sStTmMdDrReEvVlLſK",
    *"0123456789²½Ⅷ٣߁०๓၅１\U0001d7ce\U0001f100〇一",
    *"\u0300\u0301\u0308\u0327\u0345\u0334\u05b0\u0f71\u0f72\u0344\u3099\u1161\u11a8\u0f73\U0001d165\U0001d15e",
    *"가각힣ㄱ\u1100\u1112áÅÅΩ豈\u0958\u1e9bạ̈",
    *"👩‍👧🏽\ufe0f🇩🇪e\u0301▁<>|_-.,!?()[]{}#@\\\"",
    "'s", "'S", "'ſ", "'ll", "'LL", "'lL", "'Re", "'vE", "'l", "' s", "▁▁", "  ",
    "\r\n", "\n\n", "<s>", "</s>", "<unk>", "<0x0A>",
    "<|im_end|>", "<|endoftext|>", "Hello", " world", "naïve", "日本語",
]  # fmt: skip


def random_texts(seed: int, count: int) -> list[str]:
    """Short texts of odd things, of all planes, of one block each."""
    chance = random.Random(seed)
    texts = []
    for _ in range(count):
        kind, length = chance.randrange(4), chance.choice([1, 2, 3, 5, 8, 20, 60])
        if kind == 0:
            block = chance.randrange(0x100, 0x30000, 0x80)
            points = [chance.randrange(block, block + 0x80) for _ in range(length)]
        elif kind == 1:
            points = [chance.randrange(0x110000) for _ in range(length)]
        else:
            texts.append("".join(chance.choices(ODD, k=length)))
            continue
        texts.append("".join(chr(point) for point in points if not 0xD800 <= point < 0xE000))
    return ["", *texts]
