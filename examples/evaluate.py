"""Perplexity of a bundle on a text: evaluate.py NAME.mbundle TEXT.txt"""

import sys
from pathlib import Path

import mobile_bundle as mb


def main(path: str, text: str) -> None:
    with mb.open(path).load() as model:
        result = model.perplexity(Path(text).read_text("utf-8"), windows=8, progress=print)
    print(f"perplexity {result.perplexity:.3f} on {result.tokens:,} tokens")


if __name__ == "__main__":
    main(*sys.argv[1:])
