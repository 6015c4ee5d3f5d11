"""What moving keys costs in quality: predictions after tokens were taken out of a session, against reading again.

    python benchmarks/full_context.py BUNDLE --text FILE [--windows 8] [--kv int8]

Each window of the text is read whole; then the tokens behind the first ones are taken out, at once or piece by piece
with new tokens read between (as the exchanges of a long conversation leave), and the next 64 tokens of the text follow.
A second session reads what is left from the start, and the same 64 tokens. Printed: the mean KL divergence of the
first's predictions from the second's (in nats a token), how often both have the same likeliest token, the perplexity of
the 64 tokens in both, and the seconds of moving and of reading again."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from mobile_bundle.native.engine import KV_TYPES, Model, Session
from mobile_bundle.native.tokenizer import Tokenizer
from numpy.typing import NDArray

KEPT, FOLLOWING = 32, 64
"""Tokens that stand for a system prompt; tokens that are predicted."""


def predictions(session: Session, ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """Log probabilities (FOLLOWING, vocabulary) after each of the ids."""
    rows = np.stack([session.feed(ids[i : i + 1]).copy() for i in range(len(ids))]).astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def main() -> None:
    """Prints a line per way of removing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024, help="tokens of a window before the removal")
    parser.add_argument("--removed", type=int, default=256, help="tokens that leave in all")
    parser.add_argument("--kv", choices=sorted(KV_TYPES), default="int8")
    options = parser.parse_args()
    tokenizer = Tokenizer(options.bundle / "tokenizer.bin")
    ids = tokenizer.encode(options.text.read_text("utf-8")[: 8 * options.windows * (options.length + FOLLOWING)])
    length = options.length + FOLLOWING
    context = length + 8
    with Model(options.bundle) as model:
        for pieces in (1, 8):
            divergences, same, losses, moving, reading = [], [], [], 0.0, 0.0
            for start in range(0, min(options.windows * length, len(ids) - length), length):
                window = ids[start : start + length]
                text, following = window[: options.length], window[options.length :]
                step = options.removed // pieces
                with model.session(context, 2, 0, options.kv) as session:
                    read = options.length - (pieces - 1) * step
                    session.feed(text[:read])
                    for piece in range(pieces):
                        begin = time.perf_counter()
                        session.remove(KEPT, KEPT + step)
                        moving += time.perf_counter() - begin
                        if piece < pieces - 1:
                            session.feed(text[read : read + step])
                            read += step
                    moved = predictions(session, following)
                with model.session(context, 2, 0, options.kv) as session:
                    begin = time.perf_counter()
                    session.feed(np.concatenate([text[:KEPT], text[KEPT + options.removed :]]))
                    reading += time.perf_counter() - begin
                    again = predictions(session, following)
                divergences.append((np.exp(again) * (again - moved)).sum(axis=1).mean())
                same.append((again.argmax(axis=1) == moved.argmax(axis=1)).mean())
                rows = np.arange(FOLLOWING - 1)
                losses.append([-each[rows, following[1:]].mean() for each in (moved, again)])
            count = len(divergences)
            perplexity = np.exp(np.mean(losses, axis=0))
            print(
                f"{options.kv}, {options.removed} of {options.length} tokens in {pieces} pieces, {count} windows: "
                f"KL {np.mean(divergences):.4f} (worst window {np.max(divergences):.4f}), same token "
                f"{100 * np.mean(same):.1f} %, perplexity {perplexity[0]:.2f} (read again {perplexity[1]:.2f}), "
                f"moving {1e3 * moving / count:.0f} ms, reading {1e3 * reading / count:.0f} ms"
            )


if __name__ == "__main__":
    main()
