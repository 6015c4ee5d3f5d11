"""Which tokens are kept.

Merges are applied by rank. A word's merges in the smaller vocabulary are those of the whole one as long as every merge
that the whole one applies is kept, because what is left out can only have been passed over. So a kept token brings
along the tokens of its own merges, down to bytes or characters, and every merge among kept tokens is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from mobile_bundle.tokenizer import steps as step
from mobile_bundle.tokenizer.byte_alphabet import BYTE_ALPHABET
from mobile_bundle.tokenizer.steps import MARK, Steps
from mobile_bundle.tokenizer.vocabulary import Vocabulary


def needed(vocabulary: Vocabulary, steps: Steps, used: Iterable[int]) -> set[int]:
    """The ids of bytes, added tokens, the unknown token, and of `used` with all that their merges need."""
    texts = {number: text for text, number in vocabulary.tokens.items()}
    kept = {token.id for token in vocabulary.added}
    kept |= {vocabulary.tokens[text] for text in _basis(vocabulary, steps) if text in vocabulary.tokens}
    if vocabulary.unknown >= 0:
        kept.add(vocabulary.unknown)
    waiting = sorted(set(used))
    kept.update(waiting)
    for number in waiting:
        if number in texts:
            kept |= _on_the_way(texts[number], vocabulary)
    return kept


def _basis(vocabulary: Vocabulary, steps: Steps) -> set[str]:
    """What any text can be cut into: bytes; without all of them every single character, too."""
    if steps.flags & step.BYTE_LEVEL:
        return set(BYTE_ALPHABET)
    fallback = {f"<0x{byte:02X}>" for byte in range(256)}
    if vocabulary.flags & step.BYTE_FALLBACK and fallback <= vocabulary.tokens.keys():
        return fallback | {MARK}
    return fallback | {text for text in vocabulary.tokens if len(text) == 1}


def _on_the_way(text: str, vocabulary: Vocabulary) -> set[int]:
    """Every token that comes up when the text's characters are merged."""
    symbols = [vocabulary.tokens[character] for character in text if character in vocabulary.tokens]
    if len(symbols) < len(text):
        return set()  # it is never made by merges
    found = set(symbols)
    while len(symbols) > 1:
        pairs = [vocabulary.merges.get(pair) for pair in itertools.pairwise(symbols)]
        ranked = [(merge[0], at) for at, merge in enumerate(pairs) if merge]
        if not ranked:
            break
        at = min(ranked)[1]
        merge = pairs[at]
        assert merge
        symbols[at : at + 2] = [merge[1]]
        found.add(merge[1])
    return found
