"""Answers in a given form from logits that know nothing of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mobile_bundle.native.constraint import Constraint, Vocabulary
from mobile_bundle.native.sampler import Sampler, Sampling
from mobile_bundle.native.tokenizer import TextStream, Tokenizer
from numpy.typing import NDArray


class RandomModel:
    """A tokenizer and random logits. `end`: the token that ends an answer."""

    def __init__(self, tokenizer: Path, end: int) -> None:
        self.tokenizer = Tokenizer(tokenizer)
        self.size = self.tokenizer.vocabulary + 5  # a padded vocabulary
        self.end = end
        self.vocabulary = Vocabulary(self.tokenizer, self.size, [end])
        self._short = np.zeros(self.size, np.float32)
        """Larger for tokens that bring an answer to its end."""
        for token in range(self.size):
            text = self.text([token])
            if text in ('"', "]", "}", "0", "b", "x") or token == end:
                self._short[token] = 12 if text != '"' else 10

    def text(self, tokens: list[int]) -> str:
        """As an app sees it."""
        stream = TextStream(self.tokenizer)
        return "".join([*map(stream.token, tokens), stream.finish()])

    def answer(self, constraint: Constraint, seed: int, most: int, patience: int) -> tuple[list[int], bool]:
        """The tokens of an answer, and whether it came to its end within `most`. After `patience` tokens it is brought
        to an end."""
        random = np.random.default_rng(seed)
        tokens: list[int] = []
        constraint.begin()
        with Sampler(self.size, Sampling(temperature=1.0, seed=seed)) as sampler:
            while not constraint.complete:
                if len(tokens) == most:
                    return tokens, False
                logits = random.standard_normal(self.size, np.float32) * 2
                logits += self._short * (len(tokens) / patience if len(tokens) < patience else 1.5)
                token = sampler.sample(logits, constraint.allowed())
                constraint.accept(token)
                if token == self.end:
                    break
                tokens.append(token)
        return tokens, True


def allowed_tokens(mask: NDArray[np.uint32]) -> set[int]:
    """The tokens whose bits are set."""
    return set(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist())
