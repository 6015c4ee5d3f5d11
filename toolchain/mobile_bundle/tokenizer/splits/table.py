"""Writes the section MB_TOKEN_SPLITS of tokenizer.bin; its layout is in tokenizer_format.h."""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_bundle.errors import UnsupportedError
from mobile_bundle.tokenizer.byte_alphabet import BYTE_ALPHABET
from mobile_bundle.tokenizer.splits import automaton, character_sets
from mobile_bundle.tokenizer.splits.character_sets import CODE_POINTS, Members
from mobile_bundle.tokenizer.splits.expression import Ahead, Characters, Choice, Node, Repeat, Sequence, members, parse
from mobile_bundle.tokenizer.splits.step import BEHAVIOURS, SplitStep

MAX_STEPS, MAX_CLASSES = 8, 255
_INVERT, _BYTES = 1, 2
_BLOCK = 128
_BITS = 32  # sets told apart at once


@dataclass(frozen=True, eq=False)
class CompiledSplits:
    """section: MB_TOKEN_SPLITS. automata: one per step. classes: uint8[0x110000], the class of every code point."""

    section: bytes
    steps: tuple[SplitStep, ...]
    automata: tuple[automaton.Automaton, ...]
    classes: NDArray[np.uint8]


@functools.lru_cache(maxsize=8)
def compile_splits(steps: tuple[SplitStep, ...]) -> CompiledSplits:
    """The tables of the steps. Raises UserError, one line, for what cannot be compiled."""
    if len(steps) > MAX_STEPS:
        raise UnsupportedError(f"tokenizer.json: {len(steps)} steps split words; at most {MAX_STEPS} are supported")
    trees = [_tree(step) for step in steps]
    sets = sorted({source for tree in trees for source in _sources(tree)})
    membership = {source: _members(source) for source in sets}
    classes, of_set, count = _classes(membership)
    automata = tuple(automaton.build(tree, count, of_set) for tree in trees)
    return CompiledSplits(_section(steps, automata, classes, count), steps, automata, classes)


def _tree(step: SplitStep) -> Node:
    if step.characters:
        return Characters(f"step {step.characters}")
    if step.expression:
        return parse(step.expression)
    if not step.text:
        raise UnsupportedError("tokenizer.json: a step splits words by the empty text")
    return Sequence(tuple(Characters(f"\\x{{{ord(character):X}}}") for character in step.text))


def _sources(node: Node) -> set[str]:
    """The sets of a tree."""
    match node:
        case Characters(source) | Ahead(source):
            return {source}
        case Repeat(inner):
            return _sources(inner)
        case Sequence(nodes) | Choice(nodes):
            return {source for inner in nodes for source in _sources(inner)}


def _members(source: str) -> Members:
    name = source.removeprefix("step ")
    return members(source) if name == source else character_sets.of_step(name)


def _classes(sets: dict[str, Members]) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.bool_]], int]:
    """(the class of every code point, per set which classes it has, how many classes there are). Two code points are of
    one class when every set has both or neither."""
    numbers = np.zeros(CODE_POINTS, np.int64)
    for number, has in enumerate(sets.values(), 1):
        numbers = numbers * 2 + has
        if number % _BITS == 0 or number == len(sets):
            _, numbers = np.unique(numbers, return_inverse=True)
    count = int(numbers.max()) + 1
    if count > MAX_CLASSES:
        raise UnsupportedError(f"tokenizer.json: its splits tell {count} kinds of characters apart, more than 255")
    examples = np.full(count, -1, np.int64)
    examples[numbers[::-1]] = np.arange(CODE_POINTS - 1, -1, -1)
    return numbers.astype(np.uint8), {source: has[examples] for source, has in sets.items()}, count


def _section(
    steps: tuple[SplitStep, ...], automata: tuple[automaton.Automaton, ...], classes: NDArray[np.uint8], count: int
) -> bytes:
    byte_classes = np.zeros(256, np.uint8)
    for character, byte in BYTE_ALPHABET.items():
        byte_classes[byte] = classes[ord(character)]
    blocks, block_of = np.unique(classes.reshape(-1, _BLOCK), axis=0, return_inverse=True)
    section = struct.pack("<4I", len(steps), count, len(blocks), 0)
    for step, states in zip(steps, automata, strict=True):
        flags = _INVERT * step.invert | _BYTES * step.on_bytes
        section += struct.pack("<4I", BEHAVIOURS.index(step.behaviour), flags, len(states.next), 0)
    section += byte_classes.tobytes() + block_of.astype(np.uint16).tobytes() + blocks.tobytes()
    for states in automata:
        table = states.next.tobytes() + states.waiting.tobytes()
        section += table + bytes(-len(table) % 4)
    return section
