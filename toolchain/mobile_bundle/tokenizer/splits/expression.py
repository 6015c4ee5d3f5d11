"""Reads the regular expressions of split steps: Oniguruma's syntax as the `tokenizers` package has it.

Only what stands between sets of characters is read here. A set itself (`\\p{L}`, `[^\\s\\p{L}]`, `.`, a letter without
case) is handed to the package as it is. What cannot be matched by an automaton that looks one character ahead is
refused by name.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import numpy as np

from mobile_bundle.errors import UnsupportedError
from mobile_bundle.tokenizer.splits import character_sets
from mobile_bundle.tokenizer.splits.character_sets import Members

_MOST_REPEATS = 64
_MOST_DEPTH = 32
_MOST_LENGTH = 20_000
_LETTER_ESCAPES = "rntfvae"
_SET_ESCAPES = "sSdDwWhH"
_PLAIN_ESCAPES = "\\^$.|?*+()[]{}/-'\"#&~!@%=:;,<>_` "


@dataclass(frozen=True)
class Characters:
    """One character of a set; the source that names the set for the package."""

    source: str


@dataclass(frozen=True)
class Sequence:
    """One node after the other."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Choice:
    """The first of the nodes with which the rest matches."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """most: None for no limit. lazy: as few as possible."""

    node: Node
    least: int
    most: int | None
    lazy: bool = False


@dataclass(frozen=True)
class Ahead:
    """Nothing, where the next character is one of the set (negated: is none of it), or where the text ends if
    `at_end`."""

    source: str
    negated: bool
    at_end: bool


Node = Characters | Sequence | Choice | Repeat | Ahead
NOTHING_SOURCE = r"[^\x{0}-\x{10FFFF}]"
"""A set without characters."""


def members(source: str) -> Members:
    """The code points of a set by its source."""
    if source == NOTHING_SOURCE:
        return np.zeros(character_sets.CODE_POINTS, np.bool_)
    high = any(ord(character) >= 0x33500 for character in source) or bool(re.search(r"\\x\{[0-9A-Fa-f]{5,}", source))
    return character_sets.of_expression(source, high)


def parse(expression: str) -> Node:
    """The tree of an expression. Raises UnsupportedError, one line, for what is not supported."""
    if len(expression) > _MOST_LENGTH:
        raise UnsupportedError(f"tokenizer.json: a split expression of {len(expression)} characters is too long")
    return _Parser(expression).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def parse(self) -> Node:
        node = self._choice(False)
        if self._at < len(self._text):
            raise self._refuse("')' without '('")
        return node

    def _refuse(self, what: str) -> UnsupportedError:
        return UnsupportedError(
            f"tokenizer.json: splits words by a regular expression with {what}, which cannot be compiled: {self._text}"
        )

    def _peek(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _skip(self, text: str) -> bool:
        if not self._peek(text):
            return False
        self._at += len(text)
        return True

    def _choice(self, any_case: bool) -> Node:
        """Up to the end or a `)`."""
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise self._refuse("too many groups inside each other")
        options = [self._sequence(any_case)]
        while self._skip("|"):
            options.append(self._sequence(any_case))
        self._depth -= 1
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self, any_case: bool) -> Node:
        nodes: list[Node] = []
        folded = ""  # the run of plain characters without case that ends here
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            if self._peek("(?i)") or self._peek("(?-i)"):
                # In Oniguruma's Ruby syntax such an option holds to the end of the group, `|` included.
                any_case = not self._peek("(?-i)")
                self._at = self._text.index(")", self._at) + 1
                nodes.append(self._choice(any_case))
                break
            begin = self._at
            atom = self._atom(any_case)
            plain = self._text[begin : self._at]
            folded = folded + plain if any_case and isinstance(atom, Characters) and len(plain) == 1 else ""
            if _folds_together(folded):
                raise self._refuse(f"{folded!r} in any case, which may be one character")
            nodes.append(self._repeated(atom))
        return nodes[0] if len(nodes) == 1 else Sequence(tuple(nodes))

    def _repeated(self, node: Node) -> Node:
        bounds = self._bounds()
        if bounds is None:
            return node
        if isinstance(node, Ahead):
            raise self._refuse("a repeated look-ahead")
        least, most, braces = bounds
        lazy = self._skip("?")
        again = not lazy and self._skip("+")
        # In Ruby's syntax, which the package has, x{n}? is (?:x{n})? and x{n,m}+ is (?:x{n,m})+.
        if again and braces:
            node = Repeat(Repeat(node, least, most), 1, None)
        elif again:
            node = self._possessive(node, least, most)
        elif lazy and "," not in braces and braces:
            node = Repeat(Repeat(node, least, most), 0, 1)
        else:
            node = Repeat(node, least, most, lazy)
        if self._bounds() is not None:
            raise self._refuse("a repeat of a repeat")
        return node

    def _bounds(self) -> tuple[int, int | None, str] | None:
        """(least, most, the braces) of the repeat that stands here."""
        for sign, least, most in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self._skip(sign):
                return least, most, ""
        if not self._peek("{"):
            return None
        found = re.compile(r"\{(\d{0,5})(,?)(\d{0,5})\}").match(self._text, self._at)
        if not found or not (found[1] or found[3]):
            raise self._refuse("'{' as a character; write \\{")
        self._at = found.end()
        least = int(found[1] or 0)
        top = int(found[3]) if found[3] else None if found[2] else least
        if max(least, top or 0) > _MOST_REPEATS or (top is not None and top < least):
            raise self._refuse(f"the repeat {found[0]}")
        return least, top, found[0]

    def _possessive(self, node: Node, least: int, most: int | None) -> Node:
        """As many as there are, for good: exactly when no further one follows."""
        if not isinstance(node, Characters):
            raise self._refuse("a possessive repeat of more than one character")
        no_more = Ahead(node.source, negated=True, at_end=True)
        if most is None:
            return Sequence((Repeat(node, least, None), no_more))
        return Choice((node, no_more))

    def _atom(self, any_case: bool) -> Node:
        character = self._text[self._at]
        if character == "(":
            return self._group(any_case)
        if character == "$":
            self._at += 1
            return Ahead(r"\n", negated=False, at_end=True)
        if self._skip(r"\z"):
            return Ahead(NOTHING_SOURCE, negated=False, at_end=True)
        if character == "^":
            raise self._refuse("'^', which looks back")
        return self._characters(any_case)

    def _characters(self, any_case: bool) -> Characters:
        begin = self._at
        character = self._text[begin]
        if character == "[":
            self._at = self._bracket_end()
        elif character == "\\":
            self._escape()
        elif character in "*+?{":
            raise self._refuse(f"{character!r} without anything before it")
        else:
            self._at += 1
        source = self._text[begin : self._at]
        source = f"(?i:{source})" if any_case else source
        try:
            found = members(source)
        except ValueError:
            raise self._refuse(f"{source!r}, which the tokenizers package does not read") from None
        if any_case and bool((found & _folding()).any()):
            raise self._refuse(f"{source!r}, which may match more than one character")
        return Characters(source)

    def _bracket_end(self) -> int:
        at, depth = self._at, 0
        while at < len(self._text):
            character = self._text[at]
            if character == "\\":
                at += 1
            elif character == "[":
                depth += 1
                after = at + 1 + self._text.startswith("^", at + 1)
                if self._text.startswith("]", after):
                    raise self._refuse("']' as the first character of a set; write \\]")
            elif character == "]":
                depth -= 1
                if depth == 0:
                    return at + 1
            at += 1
        raise self._refuse("a '[' that does not end")

    def _escape(self) -> None:
        """Moves behind an escape of one character or set."""
        rest = self._text[self._at :]
        found = re.match(
            r"\\[pP]\{\^?[A-Za-z0-9_ =-]+\}|\\x\{[0-9A-Fa-f]{1,6}\}|\\x[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}", rest
        )
        if found:
            self._at += found.end()
            return
        letter = rest[1:2]
        if not letter or letter not in _SET_ESCAPES + _PLAIN_ESCAPES + _LETTER_ESCAPES:
            raise self._refuse(f"'\\{letter}'")
        self._at += 2

    def _group(self, any_case: bool) -> Node:
        if self._skip("(?="):
            return self._ahead(any_case, negated=False)
        if self._skip("(?!"):
            return self._ahead(any_case, negated=True)
        if self._skip("(?>"):
            node = self._inside(any_case)
            plain = isinstance(node, Repeat) and not node.lazy and (node.most is None or node.most - node.least == 1)
            if isinstance(node, Repeat) and plain and (node.most is None or node.least == 0):
                return self._possessive(node.node, node.least, node.most)
            if not isinstance(node, Characters):
                raise self._refuse("an atomic group of more than one character")
            return node
        if self._skip("(?i:"):
            return self._inside(True)
        if self._skip("(?-i:"):
            return self._inside(False)
        if self._skip("(?:"):
            return self._inside(any_case)
        if self._peek("(?"):
            raise self._refuse(f"'{self._text[self._at : self._at + 4]}'")
        self._at += 1
        return self._inside(any_case)

    def _inside(self, any_case: bool) -> Node:
        """What stands before the `)` that ends the group."""
        node = self._choice(any_case)
        if not self._skip(")"):
            raise self._refuse("a '(' that does not end")
        return node

    def _ahead(self, any_case: bool, negated: bool) -> Node:
        node = self._inside(any_case)
        options = node.nodes if isinstance(node, Choice) else (node,)
        sources, at_end = [], False
        for option in options:
            if isinstance(option, Ahead) and not option.negated and option.at_end:
                at_end = True
                sources += [option.source] if option.source != NOTHING_SOURCE else []
            elif isinstance(option, Characters):
                sources.append(option.source)
            else:
                raise self._refuse("a look-ahead of more than one character")
        source = "|".join(sources) if sources else NOTHING_SOURCE
        return Ahead(source, negated, at_end != negated)


def _folds_together(text: str) -> bool:
    """Whether the end of the text is, in any case, also one character: "ss" and "ß"."""
    return len(text) > 1 and any(text.casefold().endswith(folded) for folded in _folds())


@functools.cache
def _folding() -> Members:
    """The characters that become several when case is ignored."""
    points = [point for point in range(0x20000) if len(chr(point).casefold()) > 1]
    members = np.zeros(character_sets.CODE_POINTS, np.bool_)
    members[points] = True
    return members


@functools.cache
def _folds() -> frozenset[str]:
    """What they become."""
    return frozenset(chr(point).casefold() for point in _folding().nonzero()[0])
