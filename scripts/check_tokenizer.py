"""Compares the runtime's tokenizer with transformers' AutoTokenizer on published tokenizer files, and times it.

    .venv/bin/python scripts/check_tokenizer.py FOLDER... --text FILE... [--rounds 7]

FOLDER: with tokenizer.json and tokenizer_config.json. Every line of the texts, 5,000 random Unicode texts and 3,000
strings of invalid UTF-8 are encoded by both, and what comes out is decoded by both. Status 1 if any differ.

Then the first megabyte of each text is encoded by every tokenizer in turn, ROUNDS times. Printed is the median of
megabytes a second on one thread, and the median of the rounds' ratios to the first FOLDER: ratios of neighbouring
measurements hold on a busy machine, the speeds do not.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import transformers
from mobile_bundle.corpus.text import read_text

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.texts import random_texts
from support.tokenizer_pair import Pair

BROKEN = 3000
"""Strings of invalid UTF-8."""
TIMED = 1_000_000
"""Bytes of each text that are timed."""


def differences(pair: Pair, texts: list[str]) -> int:
    """How many of the texts differ, encoded, or decoded again, and of strings of invalid UTF-8, which `tokenizers`
    takes after Python's decoder put a character in the place of what is no text."""
    ids = [encoding.ids for encoding in pair.theirs.encode_batch_fast(texts)]
    decoded = pair.theirs.decode_batch(ids, skip_special_tokens=False)
    found = sum(
        pair.ours.encode(text, True) != numbers or pair.ours.decode(numbers) != back
        for text, numbers, back in zip(texts, ids, decoded, strict=True)
    )
    chance = np.random.default_rng(6)
    for size in chance.integers(1, 40, BROKEN):
        data = chance.bytes(int(size)) + "é🎉".encode()[: size % 7]
        found += (
            pair.ours.encode(data) != pair.theirs.encode(data.decode("utf-8", "replace"), add_special_tokens=False).ids
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    texts = [read_text(path) for path in options.text]
    lines = [line for text in texts for line in text.split("\n")]
    timed = [text.encode()[:TIMED].decode("utf-8", errors="ignore") for text in texts]
    pairs = {folder: Pair(folder) for folder in options.folder}
    for folder, pair in pairs.items():  # some classes of transformers replace what tokenizer.json says
        pair.theirs = transformers.AutoTokenizer.from_pretrained(folder).backend_tokenizer
    failed = 0
    for folder, pair in pairs.items():
        found = differences(pair, [*lines, *random_texts(11, 5000)])
        print(f"{folder}: {len(lines) + 5001 + BROKEN:,} texts, {found} differ", flush=True)
        failed += found > 0
    for pair in pairs.values():  # the buffer of ids grows once
        for text in timed:
            pair.ours.encode(text)
    times: dict[Path, list[float]] = {folder: [] for folder in pairs}
    for _ in range(options.rounds):
        for folder, pair in pairs.items():
            began = time.perf_counter()
            for text in timed:
                pair.ours.encode(text)
            times[folder].append(time.perf_counter() - began)
    size = sum(len(text.encode()) for text in timed)
    for folder, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(times[options.folder[0]], taken, strict=True))
        print(f"{folder}: {size / statistics.median(taken) / 1e6:.1f} MB/s, {ratio:.2f} times {options.folder[0]}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
